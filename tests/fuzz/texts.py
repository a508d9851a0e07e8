"""Targets for what people, programs, vaults and files say in text."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import asyncssh
import trio
import trio.testing

from pamfs.config import inspect
from pamfs.control.server import ControlStream, _reply
from pamfs.errors import CannotAskError, DeclinedError, NameRefusedError
from pamfs.model import Name, Secret, Target, json_object
from pamfs.mountpoint import OptionError, parse_options, read_table
from pamfs.naming.dialects import (
    PRESETS,
    find_dialect,
    parse_template,
    refused_characters,
)
from pamfs.naming.targets import parse_target, target_name
from pamfs.sessions.account.codes import Code, Codes
from pamfs.sessions.account.ledger import LedgerContents
from pamfs.sessions.checkout import helper, segura_api
from pamfs.sessions.checkout.base import Busy, Denied, Lease, Pending
from pamfs.sessions.checkout.journal import LeaseJournal
from pamfs.sessions.prompts.pinentry import Assuan, escape, unescape
from pamfs.transport.ssh.host_keys import read_known_hosts
from pamfs.transport.ssh.refusals import LONGEST_TEXT, channel_refusal, login_refusal
from tests.fuzz.target import target

TARGET: Final = Target("acme", "root", "web01")
# datetime's last year is 9999.
LATEST: Final = 253402300800
NOW: Final = 1_700_000_000.0


@functools.cache
def folder() -> tempfile.TemporaryDirectory[str]:
    """Return a folder that lives as long as the process, in memory if possible."""
    shm = Path("/dev/shm")
    return tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None)


def file_of(name: str, data: bytes) -> Path:
    """Return a file that holds ``data``."""
    path = Path(folder().name) / name
    path.write_bytes(data)
    path.chmod(0o600)
    return path


def text_of(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


# --- names -----------------------------------------------------------------


@target(300)
def path_names(data: bytes) -> None:
    """A path component is a target with one canonical name, or it is refused."""
    try:
        found = parse_target("acme", Name(data))
    except NameRefusedError:
        return
    name = target_name(found)
    assert parse_target("acme", name) == found, (data, name)
    assert 0 < found.port < 1 << 16
    for dialect in map(find_dialect, PRESETS):
        with contextlib.suppress(NameRefusedError):
            user = dialect.user_name("alice", found, "")
            assert user.isprintable() or not user.isascii(), user
            user.encode()


@target(200)
def templates(data: bytes) -> None:
    """A template of one's own is read, or refused with ``ValueError``."""
    text = text_of(data)
    try:
        dialect = find_dialect(text)
    except ValueError:
        return
    parse_template(dialect.template)
    assert refused_characters(dialect.template)
    with contextlib.suppress(NameRefusedError):
        user = dialect.user_name("alice", TARGET, "")
        assert dialect.user_name("alice", TARGET, "") == user
    assert dialect.account("alice", TARGET)


@target(300)
def mount_options(data: bytes) -> None:
    with contextlib.suppress(OptionError):
        parse_options([text_of(data)], name="x")


# --- files -----------------------------------------------------------------


@target(4096)
def configuration(data: bytes) -> None:
    """Everything that is wrong is a problem of the list; nothing is raised."""
    found = inspect(file_of("config.toml", data))
    assert found.problems or found.config.tenants
    for tenant in found.config.tenants.values():
        assert 0 < tenant.proxy.port < 1 << 16
        for field in dataclasses.fields(tenant):
            if field.name.endswith("_s"):
                seconds = getattr(tenant, field.name)
                assert math.isfinite(seconds), field.name
                assert seconds >= 0, field.name
    for problem in found.problems:
        assert "\n" not in str(problem), problem


@target(4096)
def known_hosts(data: bytes) -> None:
    """A line is used or skipped; a key that is revoked is never trusted."""
    known = read_known_hosts(file_of("known_hosts", data))
    for host, addr, port in (("a.example", "", 22), ("a.example", "192.0.2.1", 2222)):
        lines = known.lines(host, addr, port)
        for key in (*lines.trusted, *lines.authorities, *lines.revoked):
            assert isinstance(key, asyncssh.SSHKey)


@target(4096)
def lease_journal(data: bytes) -> None:
    """What a dead daemon held is read; what was torn is skipped, the rest counts."""
    path = file_of("journal.jsonl", data)
    journal = LeaseJournal(path, os.open(path, os.O_RDWR | os.O_APPEND))
    try:
        for lease in journal.leases:
            assert isinstance(lease.id, str)
            check_target(lease.target)
            check_instant(lease.expires_at)
            assert len({lease, lease}) == 1
    finally:
        journal.close()


def check_target(found: Target) -> None:
    texts = (found.tenant, found.credential, found.device, found.domain, found.proto)
    assert all(isinstance(text, str) for text in texts), found
    assert isinstance(found.port, int)


def check_instant(at: float | None) -> None:
    assert at is None or (isinstance(at, float) and math.isfinite(at)), at


@target(4096)
def codes_ledger(data: bytes) -> None:
    """The ledger of codes is read, or raises ``ValueError``; it is written as read."""
    try:
        sheet = LedgerContents.from_json(data.decode("ascii"))
    except ValueError:
        return
    assert isinstance(sheet.digest(b"seed"), str)
    sheet.claim(b"seed", 7)
    assert not sheet.claim(b"seed", 7)
    again = LedgerContents.from_json(sheet.to_json())
    assert again.to_json() == sheet.to_json()


@target(1024)
def mount_table(data: bytes) -> None:
    for entry in read_table(os.fsdecode(data)):
        assert isinstance(entry.is_ours, bool)


# --- programs and vaults -----------------------------------------------------


@target(4096)
def helper_json(data: bytes) -> None:
    """An answer of a helper is one of the contract, or none."""
    reply = json_object(data)
    if reply is None:
        return
    answer = helper.read_answer(TARGET, reply)
    match answer:
        case None:
            return
        case Lease():
            assert answer.id
            check_instant(answer.expires_at)
            assert answer.expires_at is None or answer.expires_at < LATEST
        case Pending():
            assert answer.id
            assert answer.waits_for
        case Busy():
            check_instant(answer.until)
        case Denied():
            assert answer.why


@target(4096)
def vault_json(data: bytes) -> None:
    """An answer of a vault is read, without the secrets in it, or is none."""
    body = segura_api.decode(data)
    for status in (200, 404, 500):
        refusal = segura_api.refusal_of(status, body)
        assert refusal or (body is not None and status == 200)
        if refusal is not None:
            error = refusal.error("x")
            assert error.code in errno.errorcode
            assert "\n" not in str(error)
            assert not (refusal.is_busy and refusal.is_waiting)
            assert isinstance(refusal.holder, str)
    if body is None:
        return
    assert not {"password", "senha"} & set(body)
    for row in segura_api.credentials_of(body):
        assert row.id
        assert row.name
        assert row.hostname
    segura_api.devices_of(body)
    assert all(0 < port < 1 << 16 for _, port in segura_api.services_of(body))
    assert isinstance(segura_api.id_of(body), str)
    check_instant(segura_api.expiry_of(body))


@target(2048)
def refusal_texts(data: bytes) -> None:
    """A text of a proxy becomes one printable line of bounded length."""
    said = data.decode("utf-8", "replace").split("\0")
    for make in (login_refusal, channel_refusal):
        text = str(make("proxy", said))
        assert len(text) <= LONGEST_TEXT + len("proxy: ")
        assert "\n" not in text
        assert "\x1b" not in text


class Said(trio.abc.ReceiveStream):
    """A pipe, or a socket, that says ``data`` in pieces, and then ends."""

    def __init__(self, data: bytes, step: int = 7) -> None:
        self._data = data
        self._step = step

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        piece, self._data = self._data[: self._step], self._data[self._step :]
        return piece

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class Heard(trio.abc.SendStream):
    """A pipe that takes everything."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class Pinentry:
    """What ``Assuan`` needs of a process."""

    returncode = 0

    def __init__(self, data: bytes) -> None:
        self.stdin = Heard()
        self.stdout = Said(data)


@target(4096)
def pinentry(data: bytes) -> None:
    """A pinentry gives an answer, or one of two errors."""

    async def talk() -> None:
        assuan = Assuan(Pinentry(data))  # type: ignore[arg-type] # the part it needs
        with contextlib.suppress(CannotAskError, DeclinedError):
            await assuan.hear_greeting()
            await assuan.option("ttyname", "/dev/null")
            await assuan.tell("SETDESC", "a question\n100%")
            assert isinstance(await assuan.get_pin(), Secret)

    trio.run(talk)


@target(1024)
def assuan_escapes(data: bytes) -> None:
    text = text_of(data)
    line = escape(text)
    assert "\n" not in line
    assert "\r" not in line
    assert unescape(line.encode("utf-8", "surrogateescape")) == text


@target(4096)
def control_request(data: bytes) -> None:
    """A request is answered with one JSON object, whatever it is."""

    async def answer() -> Mapping[str, object]:
        stream = Said(data)
        talk = ControlStream(stream, None)  # type: ignore[arg-type] # it only reads
        handlers = {"status": found, "unlock": hears}
        return await _reply(await talk.read_line(), talk, handlers)

    async def found(
        request: Mapping[str, object], talk: ControlStream
    ) -> Mapping[str, object]:
        await trio.lowlevel.checkpoint()
        return {"ok": True, **request}

    async def hears(
        request: Mapping[str, object], talk: ControlStream
    ) -> Mapping[str, object]:
        while (message := await talk.receive()) is not None:
            assert isinstance(message, dict)
        return {"ok": True}

    reply = trio.run(answer)
    assert json.loads(json.dumps(reply))
    assert "a bug of pamfs" not in str(reply.get("error")), reply


@target(512)
def otp_seeds(data: bytes) -> None:
    """A seed gives a code of this time step, or an error that does not quote it."""

    async def issue() -> Code | str:
        try:
            # The clock moves: a code near its end waits for the next one.
            codes = Codes(now=lambda: NOW + trio.current_time())
            return await codes.issue(Secret(text_of(data)))
        except CannotAskError as exc:
            return str(exc)

    found = trio.run(issue, clock=trio.testing.MockClock(autojump_threshold=0))
    if isinstance(found, Code):
        assert found.ends_at > NOW
        assert found.secret.reveal().isdigit()
    else:
        # Part of the fixed text of the message is no part of a seed.
        named = found.replace("neither base32 nor otpauth://totp/...", "")
        assert len(data) < 9 or text_of(data) not in named
