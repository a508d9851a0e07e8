"""Removes secrets from log records.

Law: a secret is registered before its first use, and forgotten only when no log record
can contain it any more. asyncssh logs the user name of a login, which contains the
one-time code with many PAMs (facts/pam.md#segura-user-names).
"""

from __future__ import annotations

import logging
from typing import Final

from pamfs.model import Secret

MASK: Final = "[secret]"


class Redactor(logging.Filter):
    """Removes registered secrets from messages, arguments and tracebacks.

    Add it to handlers: a logger's own filters do not see its children's records.
    """

    def __init__(self) -> None:
        super().__init__()
        # Replaced, never changed: records are filtered in other threads too.
        self._secrets: tuple[Secret, ...] = ()

    def register(self, secret: Secret) -> None:
        """Keep ``secret`` out of every later record; twice counts twice."""
        if secret:
            self._secrets = (*self._secrets, secret)

    def forget(self, secret: Secret) -> None:
        """Undo one ``register`` of this very object; unknown ones are ignored."""
        kept = list(self._secrets)
        for index, known in enumerate(kept):
            if known is secret:
                del kept[index]
                break
        self._secrets = tuple(kept)

    def clean(self, text: str) -> str:
        """Return ``text`` with every registered secret replaced."""
        for form in self._forms():
            text = text.replace(form, MASK)
        return text

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record in place; always let it through."""
        if self._secrets:
            record.msg = self.clean(_message_of(record))
            record.args = ()
            if record.exc_info and not record.exc_text:
                record.exc_text = logging.Formatter().formatException(record.exc_info)
            if record.exc_text:
                record.exc_text = self.clean(record.exc_text)
            if record.stack_info:
                record.stack_info = self.clean(record.stack_info)
        return True

    def _forms(self) -> list[str]:
        forms: set[str] = set()
        for secret in self._secrets:
            text = secret.reveal()
            # The text itself, and as repr() of a str or bytes shows it.
            forms |= {text, repr(text)[1:-1], repr(text.encode())[2:-1]}
        return sorted(forms, key=len, reverse=True)  # a part must not hide the whole


def _message_of(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - a wrong format string must not stop the program
        return f"{record.msg} {record.args!r}"


REDACTOR: Final = Redactor()
