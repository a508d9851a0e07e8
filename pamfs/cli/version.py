"""Which pamfs this is: its version, and its commit where that is known."""

from __future__ import annotations

import json
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

_GIT_S = 5


def version_line() -> str:
    """Return e.g. ``pamfs 0.1.0 (f8d4630)``."""
    try:
        version = distribution("pamfs").version
    except PackageNotFoundError:
        version = "(not installed)"
    commit = _commit()
    return f"pamfs {version}" + (f" ({commit})" if commit else "")


def _commit() -> str:
    return _commit_of_install() or _commit_of_checkout()


def _commit_of_install() -> str:
    # PEP 610: pip notes the commit when it installs from a repository.
    try:
        noted = distribution("pamfs").read_text("direct_url.json")
    except PackageNotFoundError:
        return ""
    facts = json.loads(noted) if noted else {}
    return str(facts.get("vcs_info", {}).get("commit_id", ""))[:12]


def _commit_of_checkout() -> str:
    root = Path(__file__).parents[2]
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return ""
    try:
        done = subprocess.run(  # noqa: S603 - our words only
            [git, "-C", str(root), "rev-parse", "--short=12", "HEAD"],
            capture_output=True,
            check=False,
            text=True,
            timeout=_GIT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
