"""docs/errno.md says what the code does."""

from __future__ import annotations

import errno
import inspect
import re
from pathlib import Path

from asyncssh import constants

from pamfs import errors
from pamfs.transport.sftp.status import ERRNO_OF_STATUS

PAGE = (Path(__file__).parents[2] / "docs" / "errno.md").read_text()


def name_of(code: int) -> str:
    # Linux has two names for one number; errno.errorcode knows the other.
    return "EOPNOTSUPP" if code == errno.EOPNOTSUPP else errno.errorcode[code]


def rows(pattern: str) -> dict[str, str]:
    return dict(re.findall(pattern, PAGE, re.MULTILINE))


def test_every_named_failure_has_its_row() -> None:
    told = rows(r"^\| .* \| `(\w+Error)` \| (.+) \|$")
    known = {
        name: errno.errorcode[kind.code]
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.PamfsError)
    }
    # Their instances carry the errno of what they are about.
    known["CoolingError"] = "that of the failure"
    known["RemoteError"] = "see below"
    assert told == known


def test_every_status_has_its_row() -> None:
    told = rows(r"^\| `(FX_\w+)` \| (\w+) \|$")
    known = {
        name: name_of(ERRNO_OF_STATUS[code])
        for name, code in inspect.getmembers(constants)
        if re.fullmatch(r"FX_(?!V\d_END).*", name) and code in ERRNO_OF_STATUS
    }
    assert told == known


def test_the_page_speaks_only_of_errnos_that_exist() -> None:
    words = set(re.findall(r"\bE[A-Z]{3,}\b", PAGE)) - {"EOPNOTSUPP", "RENAME"}
    assert words <= set(errno.errorcode.values())
