"""File access over an open session.

Wires, SSH, SFTP, the bridge from trio to asyncio.
"""
