"""Who runs the programs of a test: root, or an ordinary user made for the run.

Root hides faults. The ordinary user gets a copy of pamfs and of what it imports,
in a folder of its own: the checkout may lie where only root can look.
"""

from __future__ import annotations

import compileall
import importlib.metadata
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.limits import HANG_S

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Account:
    """One identity, and the command that starts pamfs as it."""

    name: str
    uid: int
    gid: int
    python: str
    python_path: Path

    def environment(self, home: Path) -> dict[str, str]:
        """Return the whole environment of a program that this account runs."""
        return {
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "LOGNAME": self.name,
            "USER": self.name,
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "PYTHONPATH": str(self.python_path),
            "PYTHONDONTWRITEBYTECODE": "1",
            "XDG_RUNTIME_DIR": str(home / "run"),
            "XDG_STATE_HOME": str(home / "state"),
            "RESTIC_CACHE_DIR": str(home / "restic-cache"),
            "RESTIC_PASSWORD": "of-a-test",
            "BORG_BASE_DIR": str(home / "borg"),
            "BORG_PASSPHRASE": "of-a-test",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "A Test",
            "GIT_AUTHOR_EMAIL": "test@example.com",
            "GIT_COMMITTER_NAME": "A Test",
            "GIT_COMMITTER_EMAIL": "test@example.com",
        }


def myself() -> Account:
    """Return the account that runs pytest; pamfs comes from the checkout."""
    uid = os.getuid()
    name = pwd.getpwuid(uid).pw_name
    return Account(name, uid, os.getgid(), sys.executable, ROOT)


@contextmanager
def ordinary_user() -> Iterator[Account]:
    """Yield an account that is not root: made for it, or ourselves if we are not."""
    if os.getuid() != 0:
        yield myself()
        return
    name = f"pamfs-test-{os.getpid()}"
    subprocess.run(
        [
            "useradd",
            "--system",
            "--create-home",
            "--shell",
            "/bin/sh",
            "--password",
            "*",
            name,
        ],
        check=True,
        timeout=HANG_S,
    )
    try:
        found = pwd.getpwnam(name)
        with installed_copy() as (python, folder):
            yield Account(name, found.pw_uid, found.pw_gid, python, folder)
    finally:
        subprocess.run(
            ["userdel", "--force", "--remove", name],
            check=False,
            timeout=HANG_S,
            capture_output=True,
        )


@contextmanager
def installed_copy() -> Iterator[tuple[str, Path]]:
    """Yield a Python and a folder to import pamfs from, readable by everybody."""
    with tempfile.TemporaryDirectory(prefix="pamfs-install-") as text:
        folder = Path(text)
        shutil.copytree(ROOT / "pamfs", folder / "pamfs")
        compileall.compile_dir(folder / "pamfs", quiet=2)
        for name in needed_distributions("pamfs") - {"pamfs"}:
            copy_distribution(name, folder)
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        yield os.path.realpath(sys.executable), folder


def needed_distributions(name: str) -> set[str]:
    """Return ``name`` and every distribution that it needs to run, by name."""
    needed: set[str] = set()
    ahead = [name]
    while ahead:
        current = ahead.pop()
        if current in needed:
            continue
        try:
            requirements = importlib.metadata.requires(current) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # of another platform or another version of Python
        needed.add(current)
        ahead += [
            re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
            for requirement in requirements
            if "extra ==" not in requirement
        ]
    return needed


def copy_distribution(name: str, folder: Path) -> None:
    """Copy the installed files of ``name`` to ``folder``, scripts left out."""
    for file in importlib.metadata.files(name) or []:
        if ".." in file.parts:
            continue
        target = folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(str(file.locate()), target)
