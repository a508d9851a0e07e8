"""What became of one promise on one server, in a few words that can be compared."""

from __future__ import annotations

import traceback

from pamfs.errors import PamfsError

KEPT = "kept"


def outcome_of(exc: BaseException | None) -> str:
    """Return ``KEPT``, or how the promise was not kept: operation and errno."""
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    match exc:
        case None:
            return KEPT
        case PamfsError():
            return str(exc)
        case AssertionError() if str(exc):
            return str(exc).splitlines()[0]
        case AssertionError():
            frame = traceback.extract_tb(exc.__traceback__)[-1]
            return f"not so: {(frame.line or '').removeprefix('assert ')}"
        case _:
            return f"{type(exc).__name__}: {exc}"
