"""Where passwords, codes, keys and reasons come from: sources, never values.

Law: a secret does not stand in a configuration file, and a file that holds one
is readable for its owner alone.
"""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path
from typing import Final

from pamfs.config.sections import Section, one_of
from pamfs.config.values import AnswerSource, KeySource, SourceKind

_KINDS: Final = [kind.value for kind in SourceKind if kind is not SourceKind.VALUE]
KINDS_HINT: Final = (
    'one of { prompt = true }, { command = "..." }, { file = "..." },'
    ' { env = "..." }, { keyring = "..." }, { credential = "..." }'
)


def read_answer(
    section: Section, key: str, *, may_be_plain: bool = False
) -> AnswerSource | None:
    """Return the source of one answer; ``None`` if missing or wrong."""
    value = section.take(key)
    if value is None:
        return None
    if isinstance(value, str) and may_be_plain:
        text = section.text(key)
        return AnswerSource(SourceKind.VALUE, text) if text else None
    if not isinstance(value, dict):
        section.report(key, "a secret does not stand in this file", KINDS_HINT)
        return None
    table = section.table(key)
    return _read_source(table, is_secret=not may_be_plain) if table else None


def read_key(section: Section) -> KeySource | None:
    """Return the key source ``key`` of a tenant: one file, or the agent."""
    value = section.take("key")
    if value is None:
        return None
    hint = 'key = { file = "~/.ssh/id_ed25519" } or key = { agent = true }'
    table = section.table("key") if isinstance(value, dict) else None
    if table is None:
        section.report("key", "is no table", hint)
        return None
    file, agent = table.path("file"), table.flag("agent")
    passphrase = read_answer(table, "passphrase")
    table.finish()
    if (table.take("file") is not None) == agent:
        section.report("key", "needs one source: a file or the agent", hint)
        return None
    if agent and passphrase:
        table.report("passphrase", "the agent asks for none", "leave it out")
    if file is not None:
        check_secret_file(table, "file", file)
    return KeySource(file, agent, passphrase)


def check_secret_file(section: Section, key: str, path: Path) -> None:
    """Report a secret's file that is missing, or that others could read."""
    try:
        found = path.stat()
    except OSError as exc:
        section.report(key, f"{path}: {exc.strerror}")
        return
    if not stat.S_ISREG(found.st_mode):
        section.report(key, f"{path} is no regular file")
    elif found.st_mode & 0o077:
        mode = f"{stat.S_IMODE(found.st_mode):04o}"
        hint = f"chmod 600 {shlex.quote(str(path))}"
        section.report(key, f"{path} has mode {mode}: others may read it", hint)
    elif found.st_uid not in {0, os.geteuid()}:
        section.report(key, f"{path} belongs to somebody else (uid {found.st_uid})")


def _read_source(table: Section, *, is_secret: bool) -> AnswerSource | None:
    found = table.keys()
    for key in found:
        if key not in _KINDS:
            table.report(key, "is no kind of source", one_of(key, _KINDS))
            return None
    if len(found) != 1:
        problem = f"{len(found)} sources for one answer" if found else "is empty"
        table.report("", problem, KINDS_HINT)
        return None
    kind = SourceKind(found[0])
    source = _read_value(table, kind)
    if source and kind is SourceKind.FILE and is_secret:
        check_secret_file(table, "file", Path(source.value))
    return source


def _read_value(table: Section, kind: SourceKind) -> AnswerSource | None:
    match kind:
        case SourceKind.PROMPT:
            if table.flag("prompt"):
                return AnswerSource(kind)
            table.report("prompt", "must be true", KINDS_HINT)
            return None
        case SourceKind.FILE:
            path = table.path("file")
            return AnswerSource(kind, str(path)) if path else None
        case SourceKind.COMMAND:
            text = _command(table)
        case _:
            text = table.text(kind.value)
    return AnswerSource(kind, text) if text else None


def _command(table: Section) -> str | None:
    value = table.take("command")
    if isinstance(value, list):
        words = [word for word in value if isinstance(word, str)]
        if words and len(words) == len(value):
            return shlex.join(words)
        table.report("command", "is no array of texts")
        return None
    text = table.text("command")
    if text is not None and not _is_command(text):
        table.report("command", "is no command line: no word in it, or an open quote")
        return None
    return text


def _is_command(text: str) -> bool:
    try:
        return bool(shlex.split(text))
    except ValueError:
        return False
