"""SSH: dialing a proxy, its host key, the login, and asyncssh's private names."""
