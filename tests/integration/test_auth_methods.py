"""Which authentication methods are tried, and how often, with servers of the field."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pamfs.config import AnswerSource, KeySource, SourceKind, TenantConfig
from pamfs.errors import LoginRefusedError
from pamfs.model import Target
from pamfs.naming.dialects import find_dialect
from pamfs.sessions.prompts.question import Kind
from pamfs.transport.ssh.login import MOST_NOTICES, MOST_ROUNDS
from tests.conftest import LogLedger
from tests.fakes.openssh import OpenSsh, running_sshd
from tests.fakes.pools import borrow
from tests.fakes.proxy import Script
from tests.fakes.tenants import tenant
from tests.integration.session_site import SessionSite, site
from tests.limits import HANG_S

__all__ = ["site"]  # the fixture

PASSWORD = "correct horse"
ROUND = ("Password: ",)


async def test_a_method_refused_without_a_question_is_not_tried_again(
    site: SessionSite,
) -> None:
    """A server without a limit was asked 90,000 times, and never got the password."""
    script = Script(site.folder, steps=("any",), refuses_unasked=1_000_000)
    async with site.proxy(script) as pool:
        await borrow(pool)
    assert len(script.offered("begun")) == 1
    assert script.offered("password") == ["hunter2"]
    assert script.offered("answer") == []


async def test_a_wrong_password_is_sent_once_where_nothing_is_asked(
    site: SessionSite, expect_log: LogLedger
) -> None:
    expect_log("refused the login")
    script = Script(
        site.folder, steps=("any",), refuses_unasked=1_000_000, password="other"
    )
    async with site.proxy(script) as pool:
        with pytest.raises(LoginRefusedError):
            await borrow(pool)
    assert len(script.offered("begun")) == 1
    assert script.offered("password") == ["hunter2"]


@pytest.mark.parametrize("says_partial", [True, False])
async def test_a_method_that_was_refused_may_be_the_next_step(
    says_partial: bool, site: SessionSite
) -> None:
    """Refused while the password is missing, and asked for after it."""
    script = Script(
        site.folder,
        steps=("any", "keyboard-interactive"),
        rounds=(("Reason: ",),),
        answers=(("nightly",),),
        refuses_unasked=1,
        says_partial=says_partial,
    )
    reason = AnswerSource(SourceKind.VALUE, "nightly")
    async with site.proxy(script, reason=reason) as pool:
        await borrow(pool)
    assert len(script.offered("begun")) == 2
    assert script.offered("password") == ["hunter2"]
    assert script.offered("answer") == ["nightly"]


async def test_rounds_without_a_question_are_read(site: SessionSite) -> None:
    rounds: Sequence[Sequence[str]] = ((), ROUND, (), ("Reason: ", "Ticket: "), ())
    answers: Sequence[Sequence[str]] = ((), ("hunter2",), (), ("nightly", "7"), ())
    site.person.answers = {Kind.TICKET: "7"}
    script = Script(site.folder, rounds=rounds, answers=answers)
    reason = AnswerSource(SourceKind.VALUE, "nightly")
    async with site.proxy(script, reason=reason) as pool:
        await borrow(pool)
    assert script.offered("answer") == ["hunter2", "nightly", "7"]


@pytest.mark.parametrize(
    ("rounds", "answers", "most"),
    [
        pytest.param(("More? ",), ("yes",), MOST_ROUNDS, id="questions"),
        pytest.param((), (), MOST_NOTICES, id="texts"),
    ],
)
async def test_a_proxy_that_asks_without_end_is_left(
    rounds: tuple[str, ...],
    answers: tuple[str, ...],
    most: int,
    site: SessionSite,
    expect_log: LogLedger,
) -> None:
    expect_log("asked again after")
    site.person.answers = {Kind.OTHER: "yes"}
    script = Script(site.folder, rounds=[rounds] * 1000, answers=[answers] * 1000)
    async with site.proxy(script, password=None) as pool:
        with pytest.raises(LoginRefusedError, match="asked again after"):
            await borrow(pool)
    assert len(script.offered("answered")) == most


@contextmanager
def password_account() -> Iterator[str]:
    """Yield the name of an account that is made for the test, with a password."""
    if os.geteuid() != 0:
        pytest.skip("only root makes accounts")
    name = f"pamfs-pw-{os.getpid()}"
    hashed = _output("openssl", "passwd", "-6", PASSWORD)
    _output(
        *("useradd", "--system", "--create-home", "--shell", "/bin/sh"),
        *("--password", hashed, name),
    )
    try:
        yield name
    finally:
        subprocess.run(
            ["userdel", "--force", "--remove", name],
            check=False,
            timeout=HANG_S,
            capture_output=True,
        )


def _output(*command: str) -> str:
    done = subprocess.run(
        command, check=True, timeout=HANG_S, capture_output=True, text=True
    )
    return done.stdout.strip()


def sshd_tenant(sshd: OpenSsh, **changes: Any) -> TenantConfig:
    settings: dict[str, Any] = {
        "dialect": find_dialect("<credential>"),
        "port": sshd.port,
        "known_hosts": sshd.known_hosts,
        **changes,
    }
    return tenant(**settings)


WITHOUT_PAM = """\
UsePAM no
PasswordAuthentication yes
KbdInteractiveAuthentication yes
LogLevel DEBUG1"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Provide a folder that every account can enter: sshd reads keys as its user."""
    with tempfile.TemporaryDirectory(prefix="pamfs-sshd-") as text:
        Path(text).chmod(0o755)
        yield Path(text)


async def test_openssh_without_pam_gets_the_password(
    site: SessionSite, open_folder: Path
) -> None:
    with password_account() as name:
        more = f"{WITHOUT_PAM}\nMaxAuthTries 3"
        with running_sshd(open_folder, more=more) as sshd:
            given = AnswerSource(SourceKind.VALUE, PASSWORD)
            acme = sshd_tenant(sshd, password=given)
            async with site.pool(acme) as pool:
                await borrow(pool, Target("acme", name, "web01"))
    assert attempts(sshd, "Accepted password") == 1
    assert attempts(sshd, "method keyboard-interactive") == 1


async def test_openssh_without_pam_gets_a_wrong_password_once(
    site: SessionSite, open_folder: Path, expect_log: LogLedger
) -> None:
    expect_log("refused the login")
    with (
        password_account() as name,
        running_sshd(open_folder, more=WITHOUT_PAM) as sshd,
    ):
        wrong = AnswerSource(SourceKind.VALUE, "wrong horse")
        async with site.pool(sshd_tenant(sshd, password=wrong)) as pool:
            with pytest.raises(LoginRefusedError):
                await borrow(pool, Target("acme", name, "web01"))
    assert attempts(sshd, "Failed password") == 1
    assert attempts(sshd, "method keyboard-interactive") == 1


@pytest.mark.parametrize("second", ["password", "keyboard-interactive"])
async def test_openssh_with_two_steps(
    second: str, site: SessionSite, open_folder: Path
) -> None:
    """``AuthenticationMethods publickey,password``: the key passes one step only."""
    use_pam = "yes" if second == "keyboard-interactive" else "no"
    with password_account() as name:
        more = "\n".join(
            (
                f"UsePAM {use_pam}",
                "PasswordAuthentication yes",
                "KbdInteractiveAuthentication yes",
                f"AuthenticationMethods publickey,{second}",
                "LogLevel DEBUG1",
            )
        )
        with running_sshd(open_folder, more=more) as sshd:
            acme = sshd_tenant(
                sshd,
                password=AnswerSource(SourceKind.VALUE, PASSWORD),
                key=KeySource(file=sshd.client_key),
            )
            async with site.pool(acme) as pool:
                await borrow(pool, Target("acme", name, "web01"))
    assert attempts(sshd, "Partial publickey") == 1
    assert attempts(sshd, "Failed") == 0
    assert attempts(sshd, f"method {second}") == 1


def attempts(sshd: OpenSsh, text: str) -> int:
    """Return how many lines of the server's log say ``text``."""
    return sum(text in line for line in sshd.said)
