"""The words of a refusal, and the errno that a program sees for them."""

from __future__ import annotations

import errno

import pytest

from pamfs.errors import Blame, LoginRefusedError
from pamfs.transport.ssh.refusals import (
    LONGEST_TEXT,
    channel_refusal,
    login_refusal,
    tidy,
)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("Your password expired; change it in the web interface.", errno.EKEYEXPIRED),
        ("You must change your password before connecting", errno.EKEYEXPIRED),
        ("Password has expired", errno.EKEYEXPIRED),
        ("Sua senha expirou", errno.EKEYEXPIRED),
        ("The credential root@web01 is in use in another session", errno.EBUSY),
        ("Simultaneous session not allowed", errno.EBUSY),
        ("This account is locked.", errno.EACCES),
        ("Welcome. Passwords expire every 90 days.", errno.EACCES),
        ("", errno.EACCES),
    ],
)
def test_what_a_pam_says_decides_the_errno(said: str, code: int) -> None:
    for refusal in (login_refusal, channel_refusal):
        error = refusal("refused", [said])
        assert error.code == code
        assert said in str(error)


def test_what_a_pam_says_becomes_one_printable_line() -> None:
    assert tidy(["\x1b[31mno\r\n", "", "no way\n", "no way\n"]) == "[31mno; no way"
    assert len(tidy(["x" * 1000])) == LONGEST_TEXT


@pytest.mark.parametrize(
    ("text", "blame"),
    [
        ("Invalid one-time password.", Blame.CODE),
        ("Wrong OTP", Blame.CODE),
        ("O token informado é inválido", Blame.CODE),
        ("MFA failed", Blame.CODE),
        ("Wrong password", Blame.PASSWORD),
        ("Senha incorreta", Blame.PASSWORD),
        ("Wrong password or token", Blame.UNSAID),
        ("Permission denied", Blame.UNSAID),
        ("", Blame.UNSAID),
        ("Account locked: too many wrong tokens", Blame.ACCOUNT),
        ("Conta bloqueada", Blame.ACCOUNT),
        ("User is disabled", Blame.ACCOUNT),
    ],
)
def test_what_a_refusal_names_is_what_was_wrong(text: str, blame: Blame) -> None:
    error = login_refusal("the proxy refused the login", [text])
    assert isinstance(error, LoginRefusedError)
    assert error.blame is blame
