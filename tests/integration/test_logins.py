"""Logins to proxies that follow a script: methods, rounds, keys, refusals, loss."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncssh
import pytest
import trio

from pamfs.config import AnswerSource, KeySource, OtpPlace, SourceKind
from pamfs.errors import (
    CannotAskError,
    CredentialBusyError,
    HostKeyError,
    LoginRefusedError,
    LoginTimeoutError,
    NoFileTransferError,
    PasswordExpiredError,
)
from pamfs.model import RemotePath
from pamfs.sessions.prompts.question import Kind
from tests.conftest import LogLedger
from tests.fakes.pools import borrow, status_of
from tests.fakes.proxy import Script
from tests.fakes.tenants import ME, WEB01, changed
from tests.integration.session_site import SessionSite, eventually, site
from tests.limits import HANG_S

__all__ = ["site"]  # the fixture

PROMPT = AnswerSource(SourceKind.PROMPT)
CODE_LATER: dict[str, Any] = {
    "otp": PROMPT,
    "otp_in": OtpPlace.KEYBOARD_INTERACTIVE,
}


@pytest.fixture
def stray_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lay out what must not be offered: a home with a key and a configuration."""
    home = tmp_path / "home/.ssh"
    home.mkdir(parents=True)
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(
        str(home / "id_ed25519")
    )
    (home / "config").write_text("Host *\n  User mallory\n  Port 1\n")
    monkeypatch.setenv("HOME", str(home.parent))
    monkeypatch.setenv("SSH_AUTH_SOCK", str(home / "agent"))
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(home / "agent"))
        agent.listen()
        agent.settimeout(0)
        yield
        with pytest.raises(BlockingIOError):
            agent.accept()


@pytest.mark.usefixtures("stray_keys")
def write_key(key: asyncssh.SSHKey, file: Path, passphrase: str | None) -> None:
    file.touch(mode=0o600)
    key.write_private_key(str(file), "pkcs8-pem", passphrase)


async def test_with_a_password_no_key_is_offered(site: SessionSite) -> None:
    script = Script(site.folder, steps=("any",))
    async with site.proxy(script) as pool:
        await borrow(pool)
    assert script.offered("key") == []
    assert script.offered("answer") == ["hunter2"]
    assert script.offered("user") == ["alice%acme[root@web01{ssh.22}]"]


@pytest.mark.usefixtures("stray_keys")
@pytest.mark.parametrize("passphrase", [None, "open sesame"])
async def test_only_the_configured_key_is_offered(
    passphrase: str | None, site: SessionSite, expect_log: LogLedger
) -> None:
    expect_log("refused the login")
    key = asyncssh.generate_private_key("ssh-ed25519")
    file = site.folder / "key"
    write_key(key, file, passphrase)
    source = AnswerSource(SourceKind.VALUE, passphrase) if passphrase else None
    script = Script(site.folder, steps=("publickey",))
    configured = KeySource(file=file, passphrase=source)
    async with site.proxy(script, password=None, key=configured) as pool:
        with pytest.raises(LoginRefusedError):
            await borrow(pool)
    assert script.offered("key") == [key.get_fingerprint()]
    assert script.offered("password") == script.offered("answer") == []


@pytest.fixture
def agent_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Run an agent with two keys; the value is their fingerprints."""
    folder = Path(tempfile.mkdtemp())  # a socket's path is short, tmp_path is not
    agent = subprocess.Popen(
        ["ssh-agent", "-D", "-a", str(folder / "agent")], stdout=subprocess.DEVNULL
    )
    try:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(folder / "agent"))
        fingerprints = []
        for name in ("one", "two"):
            key = asyncssh.generate_private_key("ssh-ed25519")
            key.write_private_key(str(tmp_path / name))
            (tmp_path / name).chmod(0o600)
            fingerprints.append(key.get_fingerprint())
            while not (folder / "agent").exists():
                os.sched_yield()
            subprocess.run(
                ["ssh-add", "-q", str(tmp_path / name)], check=True, timeout=HANG_S
            )
        yield fingerprints
    finally:
        agent.terminate()
        agent.wait(HANG_S)
        shutil.rmtree(folder)


async def test_an_agents_keys_are_offered_when_that_is_configured(
    agent_keys: list[str], site: SessionSite, expect_log: LogLedger
) -> None:
    expect_log("refused the login")
    script = Script(site.folder, steps=("publickey",))
    async with site.proxy(script, password=None, key=KeySource(agent=True)) as pool:
        with pytest.raises(LoginRefusedError):
            await borrow(pool)
    assert script.offered("key") == agent_keys


@pytest.mark.parametrize("sock", ["", "/nonexistent/agent"])
async def test_an_agent_that_is_not_there_is_said(
    sock: str,
    site: SessionSite,
    expect_log: LogLedger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expect_log("SSH_AUTH_SOCK|the agent at /nonexistent")
    monkeypatch.setenv("SSH_AUTH_SOCK", sock)
    script = Script(site.folder, steps=("publickey",))
    async with site.proxy(script, password=None, key=KeySource(agent=True)) as pool:
        with pytest.raises(CannotAskError):
            await borrow(pool)


async def test_a_wrong_passphrase_never_reaches_the_wire(
    site: SessionSite, expect_log: LogLedger
) -> None:
    expect_log("key: Unable to decrypt")
    file = site.folder / "key"
    key = asyncssh.generate_private_key("ssh-ed25519")
    write_key(key, file, "open sesame")
    site.person.answers = {Kind.OTHER: "open barley"}
    script = Script(site.folder)
    async with site.proxy(script, password=None, key=KeySource(file=file)) as pool:
        with pytest.raises(CannotAskError):
            await borrow(pool)
    assert [question.text for question in site.person.asked] == [
        f"Passphrase of {file}:"
    ]
    assert script.connections == []


@pytest.mark.parametrize("says_partial", [True, False])
async def test_a_password_and_then_a_code_by_another_method(
    says_partial: bool, site: SessionSite
) -> None:
    """Warpgate says "failure, not partial" after a password: facts/pam.md#warpgate."""
    site.person.answers = {Kind.CODE: "424242"}
    script = Script(
        site.folder,
        steps=("password", "keyboard-interactive"),
        rounds=(("One-time password: ",),),
        answers=(("424242",),),
        instructions="Two-factor authentication",
        says_partial=says_partial,
    )
    async with site.proxy(script, **CODE_LATER) as pool:
        await borrow(pool)
    assert script.offered("password") == ["hunter2"]
    assert script.offered("answer") == ["424242"]


async def test_several_prompts_in_several_rounds(site: SessionSite) -> None:
    site.person.answers = {
        Kind.CODE: "424242",
        Kind.OTHER: "1",
        Kind.REASON: "ticket",
    }
    script = Script(
        site.folder,
        rounds=(("Password: ",), ("1. OTP\nOption> ",), ("[OTP Code]: ", "Reason: ")),
        answers=(("hunter2",), ("1",), ("424242", "ticket")),
    )
    async with site.proxy(script, **CODE_LATER) as pool:
        await borrow(pool)
    assert script.offered("answer") == ["hunter2", "1", "424242", "ticket"]


async def test_a_slow_person_is_not_cut_off(site: SessionSite) -> None:
    site.person.answers = {Kind.CODE: "424242"}
    site.person.takes_s = 1.0
    script = Script(
        site.folder,
        rounds=(("Password: ",), ("Token: ",)),
        answers=(("hunter2",), ("424242",)),
    )
    async with site.proxy(script, connect_timeout_s=0.8, **CODE_LATER) as pool:
        await borrow(pool)


async def test_an_approval_on_a_phone_is_waited_for(site: SessionSite) -> None:
    script = Script(site.folder, steps=("password",), approval_takes_s=2.0)
    async with site.proxy(script, connect_timeout_s=1.0) as pool:
        await borrow(pool)
    assert script.offered("password") == ["hunter2"]


async def test_an_approval_that_does_not_come_names_the_key_to_raise(
    site: SessionSite, expect_log: LogLedger
) -> None:
    expect_log("within 0.5 s .login_timeout: raise it")
    script = Script(site.folder, steps=("password",), approval_takes_s=60)
    async with site.proxy(script, login_timeout_s=0.5) as pool:
        with pytest.raises(LoginTimeoutError):
            await borrow(pool)


async def test_a_person_who_does_not_answer_ends_the_login(
    site: SessionSite, expect_log: LogLedger
) -> None:
    expect_log("no answer in time: the one-time code")
    site.person.answers = {Kind.CODE: "too late"}
    site.person.takes_s = 60
    script = Script(site.folder, rounds=(("Token: ",),), answers=(("",),))
    async with site.proxy(script, prompt_timeout_s=0.2, **CODE_LATER) as pool:
        with pytest.raises(Exception, match="no answer in time"):
            await borrow(pool)
        await eventually(lambda: script.open_connections == 0)
    assert script.offered("answer") == []


async def test_a_wrong_password_is_sent_once_whatever_is_offered(
    site: SessionSite, expect_log: LogLedger
) -> None:
    expect_log("refused the login: Nice try")
    script = Script(
        site.folder,
        steps=("any",),
        password="other",
        answers=(("other",),),
        refusal_banner="Nice try\n",
    )
    async with site.proxy(script) as pool:
        with pytest.raises(LoginRefusedError, match="Nice try"):
            await borrow(pool)
    assert script.offered("answer") + script.offered("password") == ["hunter2"]


@pytest.mark.parametrize(
    ("banner", "error"),
    [
        ("Your password has expired.\n", PasswordExpiredError),
        ("Simultaneous session not allowed.\n", CredentialBusyError),
    ],
)
async def test_the_banner_of_a_refusal_decides_the_errno(
    banner: str, error: type[Exception], site: SessionSite, expect_log: LogLedger
) -> None:
    expect_log("refused the login")
    script = Script(site.folder, answers=(("other",),), refusal_banner=banner)
    async with site.proxy(script) as pool:
        with pytest.raises(error):
            await borrow(pool)


@pytest.mark.parametrize(
    ("last_words", "error"),
    [
        ("File transfer is not granted.\r\n", NoFileTransferError),
        ("root@web01 is in use by bob.\r\n", CredentialBusyError),
        ("", NoFileTransferError),
    ],
)
async def test_a_proxy_that_opens_no_files_is_quoted(
    last_words: str, error: type[Exception], site: SessionSite, expect_log: LogLedger
) -> None:
    expect_log("opens no file session")
    script = Script(site.folder, opens_files=False, last_words=last_words)
    async with site.proxy(script) as pool:
        with pytest.raises(error, match=last_words.strip() or "no file session"):
            await borrow(pool)
        await eventually(lambda: script.open_connections == 0)


async def test_a_pinned_key_that_is_not_shown_gets_no_user_name(
    site: SessionSite, expect_log: LogLedger
) -> None:
    expect_log("pinned is")
    pin = asyncssh.generate_private_key("ssh-ed25519").get_fingerprint()
    script = Script(site.folder)
    async with site.proxy(script, host_key=pin) as pool:
        with pytest.raises(HostKeyError):
            await borrow(pool)
    assert script.seen == []


async def test_a_code_in_the_user_name_is_in_no_text(
    site: SessionSite, expect_log: LogLedger
) -> None:
    expect_log("refused the login")
    site.person.answers = {Kind.CODE: "424242"}
    script = Script(
        site.folder,
        answers=(("other",),),
        refusal_banner="no such user alice%acme[root@web01{ssh.22}]424242\n",
    )
    async with site.proxy(script, otp=PROMPT, otp_in=OtpPlace.USER) as pool:
        with pytest.raises(LoginRefusedError) as caught:
            await borrow(pool)
        assert "424242" in script.offered("user")[0]
        assert "424242" not in str(caught.value) + str(status_of(pool).last_error)
        assert "root@web01" in str(caught.value)


@asynccontextmanager
async def relayed(port: int, is_dead: Callable[[], bool]) -> AsyncIterator[int]:
    """Relay to ``port``; once ``is_dead`` says so, nothing passes."""

    async def pump(source: trio.SocketStream, sink: trio.SocketStream) -> None:
        async for data in source:
            if is_dead():
                await trio.sleep_forever()
            await sink.send_all(data)

    async def join(stream: trio.SocketStream) -> None:
        other = await trio.open_tcp_stream("127.0.0.1", port)
        async with other, trio.open_nursery() as nursery:
            nursery.start_soon(pump, stream, other)
            nursery.start_soon(pump, other, stream)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, join, listeners)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def test_a_dead_peer_is_noticed_by_keepalive(
    site: SessionSite, expect_log: LogLedger
) -> None:
    expect_log("not responding to keepalive")
    is_dead, is_lost = trio.Event(), trio.Event()
    async with site.proxy(Script(site.folder)) as pool:
        acme = pool._tenants["acme"]
        async with relayed(acme.proxy.port, is_dead.is_set) as port:
            acme = changed(acme, port=port, keepalive_s=0.05)
            async with site.pool(acme) as over_relay:
                over_relay.on_forget(lambda _target: is_lost.set())
                await borrow(over_relay)
                is_dead.set()
                with trio.fail_after(HANG_S):
                    await is_lost.wait()


async def test_a_login_that_is_never_finished_is_given_up(
    site: SessionSite, expect_log: LogLedger
) -> None:
    expect_log("not finished within")
    site.person.answers = {Kind.CODE: "424242"}
    script = Script(
        site.folder,
        rounds=(("Password: ",), ("Token: ",)),
        answers=(("hunter2",), ("424242",)),
    )
    async with site.proxy(script) as pool:
        acme = pool._tenants["acme"]

        def is_asked() -> bool:
            return bool(site.person.asked)

        async with relayed(acme.proxy.port, is_asked) as port:
            acme = changed(acme, port=port, login_timeout_s=0.5, **CODE_LATER)
            async with site.pool(acme) as over_relay:
                with pytest.raises(LoginTimeoutError):
                    await borrow(over_relay)


async def test_a_session_reads_files(site: SessionSite) -> None:
    (site.folder / "motd").write_bytes(b"hello")
    async with (
        site.proxy(Script(site.folder)) as pool,
        pool.lend(WEB01, ME) as tree,
    ):
        assert (await tree.lstat(RemotePath(b"/motd"))).size == 5
