"""Twisted Conch's Unix SFTP server: ``conch.py HOST_KEY USER PASSWORD``.

It prints the port that it listens on. Files are those of the account that runs it.
"""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Callable

from twisted.conch.ssh.factory import SSHFactory
from twisted.conch.ssh.keys import Key
from twisted.conch.unix import UnixConchUser
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import Portal
from twisted.internet import reactor
from twisted.python.filepath import FilePath


class SameUser(UnixConchUser):
    """A user who is the account of this process: nothing to switch to."""

    def __init__(self) -> None:
        super().__init__(pwd.getpwuid(os.getuid()).pw_name)

    def _runAsUser(  # noqa: N802 - Conch's name
        self, f: object, *args: object, **kwargs: object
    ) -> object:
        if callable(f):
            return f(*args, **kwargs)
        result: object = None
        assert isinstance(f, list)
        for call, given in f:  # Conch gives steps by position only
            result = call(*given)
        return result

    def getHomeDir(self) -> object:  # noqa: N802 - Conch's name
        return FilePath("/")

    def logout(self) -> None:
        """There is no record of logins to write."""


class Realm:
    """Everybody who may log in is this process's account."""

    def requestAvatar(  # noqa: N802 - Twisted's name
        self, avatar_id: bytes, mind: object, *interfaces: object
    ) -> tuple[object, object, Callable[[], None]]:
        user = SameUser()
        return interfaces[0], user, user.logout


def main() -> None:
    host_key, user, password = sys.argv[1:]
    key = Key.fromFile(host_key)
    factory = SSHFactory()
    factory.publicKeys = {key.sshType(): key.public()}
    factory.privateKeys = {key.sshType(): key}
    factory.portal = Portal(Realm())
    known = InMemoryUsernamePasswordDatabaseDontUse(**{user: password.encode()})
    factory.portal.registerChecker(known)
    listening = reactor.listenTCP(0, factory, interface="127.0.0.1")
    print(listening.getHost().port, flush=True)  # noqa: T201 - it is what was asked for
    reactor.run()


if __name__ == "__main__":
    main()
