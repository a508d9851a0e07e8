"""The ``helper`` provider: a program of the site's choice, one JSON object each way.

The contract is docs/checkout.md. Law: the program ends within its deadline or is
killed, and its process group with it. Output written before its end counts, also if a
child still holds the pipe open. An answer outside the contract is a refusal. A reason
is written to standard input and never appears in an argument list.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Final

import trio

from pamfs.config import HelperConfig
from pamfs.errors import LoginRefusedError
from pamfs.model import Target, json_object
from pamfs.printable import one_line
from pamfs.sessions.checkout.base import (
    ASKED,
    Answer,
    Busy,
    Denied,
    Lease,
    Pending,
    Request,
    UnansweredGrantError,
)
from pamfs.trusted_files import UntrustedFileError, check_program

log = logging.getLogger(__name__)

VERSION: Final = 1
# Larger than any answer; output beyond it is read and dropped.
LARGEST_BYTES: Final = 64 * 1024
MAX_REASON_CHARS: Final = 200
# After the program's end its output is in the pipe already; a child may hold the pipe
# open for ever.
DRAIN_WITHIN_S: Final = 1.0
# A program of another user (sudo) cannot be killed: its end is not waited for.
REAP_WITHIN_S: Final = 2.0
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]+")

_NO_ANSWER: Final = "its answer is not in the contract"

Json = Mapping[str, object]


class _UnreadError(LoginRefusedError):
    """The program may have acted, but gave no answer that can be read."""


class HelperProvider:
    """Checks out through a program; a ``base.Provider``."""

    def __init__(self, config: HelperConfig) -> None:
        self._config = config
        self._argv = shlex.split(config.command)

    async def acquire(self, request: Request, pending: Pending | None) -> Answer:
        """Run the program; raise ``LoginRefusedError`` if it breaks the contract."""
        target = request.target
        try:
            reply = await self._run(
                "acquire",
                target,
                reason=request.reason,
                ticket=request.ticket,
                duration_s=request.duration_s,
                pending=None if pending is None else pending.id,
            )
        except _UnreadError as exc:
            raise UnansweredGrantError(exc, Lease(target, ASKED)) from None
        answer = read_answer(target, reply)
        if answer is None:
            lease = Lease(target, _text(reply, "id") or ASKED)
            raise UnansweredGrantError(self._refusal(_NO_ANSWER), lease)
        return answer

    async def renew(self, lease: Lease) -> Lease | None:
        """Return a longer lease if the program grants one."""
        reply = await self._run("renew", lease.target, lease=lease_facts(lease))
        answer = read_answer(lease.target, reply, lease.id)
        if answer is None:
            raise self._refusal(_NO_ANSWER)
        return answer if isinstance(answer, Lease) else None

    async def release(self, lease: Lease) -> None:
        """Return the lease; the program answers ``released`` also the second time."""
        reply = await self._run("release", lease.target, lease=lease_facts(lease))
        if reply.get("status") != "released":
            raise LoginRefusedError(f"{self._argv[0]}: {_text(reply, 'why')}")

    def _refusal(self, why: str, stderr: bytes = b"") -> LoginRefusedError:
        return LoginRefusedError(self._say(why, stderr))

    def _unread(self, why: str, stderr: bytes) -> _UnreadError:
        return _UnreadError(self._say(why, stderr))

    def _say(self, why: str, stderr: bytes) -> str:
        lines = stderr.decode("utf-8", "replace").strip().splitlines()
        said = one_line(lines[0], MAX_REASON_CHARS) if lines else ""
        return ": ".join([self._argv[0], why, *([said] if said else [])])

    async def _run(self, action: str, target: Target, **more: object) -> Json:
        request = {
            "version": VERSION,
            "action": action,
            "target": target_facts(target),
            **more,
        }
        run = _Run(self._argv, json.dumps(request).encode() + b"\n")
        try:
            check_program(self._argv[0])
            has_ended = await run.finish(self._config.timeout_s)
        except OSError as exc:
            raise self._refusal(exc.strerror or "cannot be run") from None
        except UntrustedFileError as exc:
            raise self._refusal(str(exc)) from None
        if not has_ended:
            within = f"no answer within {self._config.timeout_s:g} s"
            raise self._unread(within, bytes(run.stderr))
        if run.status != 0:
            # A positive status is a failure; after a signal the outcome is unknown.
            refuse = self._unread if run.status < 0 else self._refusal
            raise refuse(f"exit status {run.status}", bytes(run.stderr))
        reply = json_object(bytes(run.stdout))
        if reply is None:
            raise self._unread("its answer is no JSON object", bytes(run.stderr))
        return reply


class _Run:
    """One run of the program, from its start to its end."""

    def __init__(self, argv: list[str], request: bytes) -> None:
        self._argv = argv
        self._request = request
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.status = -1

    async def finish(self, within_s: float) -> bool:
        """Return whether it ended by itself; nothing of it is left in any case."""
        process = await trio.lowlevel.open_process(
            self._argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # so that its children end with it
        )
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._feed, process.stdin)
                nursery.start_soon(_drain, process.stdout, self.stdout)
                nursery.start_soon(_drain, process.stderr, self.stderr)
                has_ended = await _wait_ended(process.pid, within_s)
                patience_s = DRAIN_WITHIN_S if has_ended else 0
                nursery.cancel_scope.deadline = trio.current_time() + patience_s
        finally:
            await self._clear_away(process)
        return has_ended

    async def _clear_away(self, process: trio.Process) -> None:
        # Not reaped yet: the group is ours for sure.
        with suppress(PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with trio.move_on_after(REAP_WITHIN_S, shield=True):
            self.status = await process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with trio.CancelScope(shield=True):
                    await pipe.aclose()

    async def _feed(self, pipe: trio.abc.SendStream | None) -> None:
        if pipe is None:
            return
        try:
            async with pipe:
                await pipe.send_all(self._request)
        except trio.BrokenResourceError:
            return  # it answers without reading


async def _wait_ended(pid: int, within_s: float) -> bool:
    """Return whether ``pid`` has ended; it is not reaped, so its number stays its."""
    fd = os.pidfd_open(pid)
    try:
        with trio.move_on_after(within_s) as scope:
            await trio.lowlevel.wait_readable(fd)
    finally:
        os.close(fd)
    return not scope.cancelled_caught


async def _drain(pipe: trio.abc.ReceiveStream | None, into: bytearray) -> None:
    while pipe is not None and (data := await pipe.receive_some()):
        into += data[: LARGEST_BYTES - len(into)]


def target_facts(target: Target) -> dict[str, object]:
    """Return ``target`` as the program sees it."""
    return {
        "name": str(target),
        "tenant": target.tenant,
        "domain": target.domain,
        "credential": target.credential,
        "device": target.device,
        "proto": target.proto,
        "port": target.port,
    }


def lease_facts(lease: Lease) -> dict[str, object]:
    """Return ``lease`` as the program sees it."""
    number = None if lease.id == ASKED else lease.id
    return {"id": number, "expires_at": lease.expires_at}


def read_answer(target: Target, reply: Json, default_id: str = "") -> Answer | None:
    """Return what ``reply`` means; None: it is not in the contract."""
    match reply.get("status"):
        case "granted":
            return _read_lease(target, reply, default_id)
        case "pending":
            number = _text(reply, "id")
            waits_for = _text(reply, "waits_for")
            return Pending(number, waits_for or "approval") if number else None
        case "busy":
            return Busy(_text(reply, "holder"), instant_of(reply.get("until")))
        case "denied":
            return Denied(_text(reply, "why") or "no reason is given")
        case _:
            return None


def _read_lease(target: Target, reply: Json, default_id: str) -> Lease | None:
    number = _text(reply, "id") or default_id
    said = reply.get("expires_at")
    expires_at = instant_of(said)
    if not number or (said is not None and expires_at is None):
        return None
    return Lease(target, number, expires_at, reply.get("renewable") is True)


def instant_of(value: object) -> float | None:
    """Return seconds since the epoch, from a number or from ISO 8601 with a zone."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        # datetime's last year is 9999; no lease is longer.
        is_sane = math.isfinite(value) and 0 <= value < 253402300800  # noqa: PLR2004
        return float(value) if is_sane else None
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
        return found.timestamp() if found and found.tzinfo else None
    except (ValueError, OverflowError, OSError):
        return None


def _text(reply: Json, key: str) -> str:
    value = reply.get(key)
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    return _CONTROL.sub(" ", str(value)).strip()
