"""Whether a file is this user's alone: what ssh requires of the files that it obeys.

A configuration holds commands that pamfs runs, a known_hosts file decides which server
gets the password, and a helper sees the answers. Law: such a file, each folder above it
and each link on the way to it can be changed by root and this user only; a file with a
secret can be read by them only. It is checked at each read, not once at the mount: an
administrator may open a folder to others while the mount runs.

The rule is that of sshd's StrictModes and of OpenSSH's ``safe_path`` (auth.c,
misc.c): the owner is root or the user, and neither group nor others may write. An
access control list that lets others write shows as the group's bit (acl(5)). In a
folder with the sticky bit, as ``/tmp``, only the owner of an entry can replace it, so
there the owner of the entry decides.

Since only trusted users can change anything on the way, nothing can be exchanged
between this check and the open.
"""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pamfs.errors import PamfsError

_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_MOST_LINKS: Final = 40  # path_resolution(7)


class UntrustedFileError(PamfsError):
    """Another user could change a file, or read the secret in it.

    ``path`` is the file, or the folder or link above it.
    """

    code = errno.EACCES

    def __init__(self, path: Path, problem: str, hint: str = "") -> None:
        super().__init__(f"{path}: {problem}" + (f" ({hint})" if hint else ""))
        self.path = path
        self.problem = problem
        self.hint = hint


def check_trusted(path: Path) -> None:
    """Raise ``UntrustedFileError`` if another user could change what is at ``path``.

    Raises ``OSError`` if it cannot be looked at. A pipe (``/dev/fd/3``) is judged by
    its own owner: it has no folder.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        _check_owner(path, found)
        return
    folder_is_sticky = False
    for step, seen in _steps(path):
        is_link = stat.S_ISLNK(seen.st_mode)
        # Who owns a link does not matter, unless its folder lets anybody make one.
        if not is_link or folder_is_sticky:
            _check_owner(step, seen)
        folder_is_sticky = stat.S_ISDIR(seen.st_mode) and _is_sticky(seen)
        if not is_link and not folder_is_sticky and seen.st_mode & _OTHERS_WRITE:
            users = "any user" if seen.st_mode & stat.S_IWOTH else "its group"
            hint = f"chmod go-w {shlex.quote(str(step))}"
            raise UntrustedFileError(step, f"{users} may write it", hint)


def check_private(path: Path) -> None:
    """As ``check_trusted``, of a regular file that others cannot read either."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise UntrustedFileError(path, "is not a regular file")
    if found.st_mode & _OTHERS:
        mode = f"{stat.S_IMODE(found.st_mode):04o}"
        hint = f"chmod 600 {shlex.quote(str(path))}"
        raise UntrustedFileError(path, f"has mode {mode}: others may read it", hint)
    check_trusted(path)


def check_program(name: str) -> None:
    """As ``check_trusted``, of a program as execvp(3) finds it; none is no error."""
    found = shutil.which(name)
    if found is not None:
        check_trusted(Path(found))


def _check_owner(step: Path, seen: os.stat_result) -> None:
    if seen.st_uid not in {0, os.geteuid()}:
        problem = f"belongs to another user (uid {seen.st_uid})"
        raise UntrustedFileError(step, problem)


def _is_sticky(seen: os.stat_result) -> bool:
    return bool(seen.st_mode & stat.S_ISVTX) and bool(seen.st_mode & _OTHERS_WRITE)


def _steps(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield what path_resolution(7) meets from ``/`` to the file, links included."""
    here, links = Path("/"), 0
    yield here, here.lstat()
    left = list(reversed(path.absolute().parts[1:]))
    while left:
        name = left.pop()
        step = here.parent if name == ".." else here / name
        seen = step.lstat()
        yield step, seen
        if not stat.S_ISLNK(seen.st_mode):
            here = step
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        target = step.readlink()
        if target.is_absolute():
            here = Path("/")
        left += reversed([part for part in target.parts if part != "/"])
