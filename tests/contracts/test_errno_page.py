"""docs/errno.md says what the code does."""

from __future__ import annotations

import dataclasses
import errno
import inspect
import re
from pathlib import Path

from asyncssh import constants

from pamfs import errors
from pamfs.app.mount import QUESTIONS, SLACK_S
from pamfs.config import FilesConfig, LoginConfig, ProxyConfig, SessionConfig
from pamfs.transport.sftp.status import ERRNO_OF_STATUS
from pamfs.transport.ssh.dial import KEEPALIVE_COUNT

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


def test_each_class_of_deadlines_is_in_the_configuration() -> None:
    kinds = (ProxyConfig, LoginConfig, SessionConfig, FilesConfig)
    fields = [field for kind in kinds for field in dataclasses.fields(kind)]
    defaults = {field.name: field.default for field in fields}
    told = re.findall(r"^\| .* \| `(\w+)` \| (\d+) s \| .* \|$", PAGE, re.MULTILINE)
    assert {key for key, _ in told} == {
        *("request_timeout", "connect_timeout", "login_timeout", "prompt_timeout"),
        *("reconnect", "keepalive", "cooldown"),
    }
    assert {key: float(default) for key, default in told} == {
        key: defaults[f"{key}_s"] for key, _ in told
    }


def test_the_longest_request_has_all_of_them() -> None:
    said = f"with {QUESTIONS} questions, and {SLACK_S:g} s, at the latest"
    assert said in PAGE
    # asyncssh counts the signs of life that were not answered before.
    assert KEEPALIVE_COUNT + 1 == 3
