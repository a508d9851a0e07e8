"""paramiko's SFTP server over a folder: ``paramiko_server.py HOST_KEY USER PASSWORD``.

It prints the port that it listens on. The server interface is what paramiko's
documentation has every user write: one call of ``os`` for each request.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable
from functools import wraps
from typing import TypeVar

import paramiko
from paramiko import SFTPAttributes, SFTPHandle, SFTPServer, SFTPServerInterface

V = TypeVar("V")


def answered(call: Callable[..., V]) -> Callable[..., V | int]:
    """Turn an error of the operating system into a status."""

    @wraps(call)
    def answer(*args: object) -> V | int:
        try:
            return call(*args)
        except OSError as exc:
            return int(SFTPServer.convert_errno(exc.errno))

    return answer


class Handle(SFTPHandle):
    """An open file: paramiko itself reads and writes it."""

    @answered
    def stat(self) -> SFTPAttributes:
        return SFTPAttributes.from_stat(os.fstat(self.readfile.fileno()))

    @answered
    def chattr(self, attr: SFTPAttributes) -> int:
        SFTPServer.set_file_attr(self.filename, attr)
        return int(paramiko.SFTP_OK)


class Files(SFTPServerInterface):
    """The files of the account that runs this."""

    @answered
    def list_folder(self, path: str) -> list[SFTPAttributes]:
        return [
            SFTPAttributes.from_stat(os.lstat(os.path.join(path, name)), name)
            for name in os.listdir(path)
        ]

    @answered
    def stat(self, path: str) -> SFTPAttributes:
        return SFTPAttributes.from_stat(os.stat(path))

    @answered
    def lstat(self, path: str) -> SFTPAttributes:
        return SFTPAttributes.from_stat(os.lstat(path))

    @answered
    def open(self, path: str, flags: int, attr: SFTPAttributes) -> Handle:
        mode = 0o666 if attr.st_mode is None else attr.st_mode
        fd = os.open(path, flags, mode)
        kind = {os.O_WRONLY: "wb", os.O_RDWR: "r+b"}.get(flags & os.O_ACCMODE, "rb")
        if flags & os.O_APPEND:
            kind = "a+b" if flags & os.O_RDWR else "ab"
        handle = Handle(flags)
        handle.filename = path
        handle.readfile = handle.writefile = os.fdopen(fd, kind)
        return handle

    @answered
    def remove(self, path: str) -> int:
        os.remove(path)
        return int(paramiko.SFTP_OK)

    @answered
    def rename(self, oldpath: str, newpath: str) -> int:
        if os.path.lexists(newpath):
            return int(paramiko.SFTP_FAILURE)
        os.rename(oldpath, newpath)
        return int(paramiko.SFTP_OK)

    @answered
    def posix_rename(self, oldpath: str, newpath: str) -> int:
        os.rename(oldpath, newpath)
        return int(paramiko.SFTP_OK)

    @answered
    def mkdir(self, path: str, attr: SFTPAttributes) -> int:
        os.mkdir(path)
        SFTPServer.set_file_attr(path, attr)
        return int(paramiko.SFTP_OK)

    @answered
    def rmdir(self, path: str) -> int:
        os.rmdir(path)
        return int(paramiko.SFTP_OK)

    @answered
    def chattr(self, path: str, attr: SFTPAttributes) -> int:
        SFTPServer.set_file_attr(path, attr)
        return int(paramiko.SFTP_OK)

    @answered
    def symlink(self, target_path: str, path: str) -> int:
        os.symlink(target_path, path)
        return int(paramiko.SFTP_OK)

    @answered
    def readlink(self, path: str) -> str:
        return os.readlink(path)


class Login(paramiko.ServerInterface):
    """One user with one password."""

    def check_auth_password(self, username: str, password: str) -> int:
        known = [username, password] == sys.argv[2:]
        return int(paramiko.AUTH_SUCCESSFUL if known else paramiko.AUTH_FAILED)

    def get_allowed_auths(self, username: str) -> str:
        return "password"

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return int(paramiko.OPEN_SUCCEEDED)


def serve(client: socket.socket, key: paramiko.PKey) -> None:
    transport = paramiko.Transport(client)
    transport.add_server_key(key)
    transport.set_subsystem_handler("sftp", SFTPServer, Files)
    transport.start_server(server=Login())


def main() -> None:
    key = paramiko.Ed25519Key(filename=sys.argv[1])
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)  # noqa: T201 - it is what was asked for
    while True:
        client, _ = listener.accept()
        threading.Thread(target=serve, args=(client, key), daemon=True).start()


if __name__ == "__main__":
    main()
