"""A password is given to a question for a password, and to no other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pamfs.sessions.prompts.question import Kind, classify

# Prompts of JumpServer and Warpgate (facts/pam.md#jumpserver, facts/pam.md#warpgate),
# OpenSSH with PAM, google-authenticator, Duo and RSA SecurID; the rest
# are the lab's, and translations.
PROMPTS = {
    Kind.PASSWORD: [
        "Password: ",
        "Password:",
        "(alice@web01) Password: ",
        "alice's password:",
        "Enter password for alice%acme:",
        "Senha: ",
        "Contraseña:",
        "Passwort: ",
        "Mot de passe :",
    ],
    Kind.CODE: [
        "One-time password: ",
        "One-time password (OATH) for `alice': ",
        "[OTP Code]: ",
        "Verification code: ",
        "Passcode: ",
        "Enter PASSCODE: ",
        "TOTP: ",
        "Token:",
        "Token code: ",
        "MFA code:",
        "Two-factor authentication code: ",
        "Código de verificação: ",
        "Password (one time):",
    ],
    Kind.REASON: [
        "Reason: ",
        "Reason for access: ",
        "Please justify your access:",
        "Justificativa: ",
        "Motivo do acesso:",
    ],
    Kind.TICKET: [
        "Ticket: ",
        "Ticket number or reason: ",
        "Change ID: ",
        "Governance code: ",
        "Password of the ticket: ",
    ],
    Kind.NEW_PASSWORD: [
        "New password: ",
        "Retype new password: ",
        "(current) password expired, change your password: ",
        "Nova senha: ",
    ],
    Kind.OTHER: [
        "\n1. OTP\n2. SMS\nOption> ",
        "Do you want to continue [Y/n]? : ",
        "Press Enter when done: ",
        "1) Ticket  2) Reason  Select: ",
        "Favourite color? ",
        "",
    ],
}


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [(prompt, kind) for kind, prompts in PROMPTS.items() for prompt in prompts],
)
def test_a_prompt_is_what_its_words_say(prompt: str, kind: Kind) -> None:
    assert classify(prompt) is kind


def test_a_password_is_not_given_to_someone_who_says_that_it_has_expired() -> None:
    said = "Your password has expired. You must change your password now."
    assert classify("Password: ", said) is Kind.NEW_PASSWORD


@given(st.text())
def test_only_a_text_that_names_a_password_gets_one(prompt: str) -> None:
    words = ("password", "senha", "contraseña", "passwort", "kennwort", "mot de passe")
    if classify(prompt) is Kind.PASSWORD:
        assert any(word in " ".join(prompt.casefold().split()) for word in words)


@given(st.sampled_from(["otp", "code", "token", "one-time", "passcode"]), st.booleans())
def test_a_text_that_names_a_code_too_never_gets_a_password(
    word: str, is_first: bool
) -> None:
    prompt = f"{word} password:" if is_first else f"password or {word}:"
    assert classify(prompt) is Kind.CODE
