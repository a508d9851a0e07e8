r"""Path components as targets: ``[domain\]credential@device[{proto.port}]``.

A component is split at the last ``@``, because a credential may contain one
(facts/pam.md#segura-user-names). Law: a component that could change the meaning of an
SSH user name is no target. What passes ``check_part`` reaches the wire unchanged: SSH
user names go through SASLprep (RFC 4013), which turns a full-width ``[`` into a real
one, so a part that SASLprep would change or refuse is refused here.
"""

from __future__ import annotations

import re
import shlex
import stringprep
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pamfs.errors import NameRefusedError
from pamfs.model import Name, Target

# Brackets and percent are delimiters of Segura, which documents no escape for them
# (facts/pam.md#segura-user-names). Angle brackets delimit placeholders in templates, a
# slash delimits path components.
NEVER: Final = frozenset("[]{}%/<>")
LONGEST_BYTES: Final = 255  # NAME_MAX of Linux: nothing longer arrives anyway

_REFUSED: Final[tuple[tuple[Callable[[str], bool], str], ...]] = (
    (stringprep.in_table_c21_c22, "a control character"),
    (stringprep.in_table_b1, "an invisible character"),
    (stringprep.in_table_c12, "a blank that is not a space"),
    (stringprep.in_table_c3, "a private-use character"),
    (stringprep.in_table_c4, "a code point that is no character"),
    (stringprep.in_table_c5, "a surrogate"),
    (stringprep.in_table_c6, "a character unfit for plain text"),
    (stringprep.in_table_c7, "a character unfit for plain text"),
    (stringprep.in_table_c8, "a character that changes the display order"),
    (stringprep.in_table_c9, "a tagging character"),
    (stringprep.in_table_a1, "a character newer than SASLprep (RFC 4013)"),
    (stringprep.in_table_d1, "a right-to-left character next to others"),
)


def check_part(what: str, text: str) -> None:
    """Raise ``NameRefusedError`` unless ``text`` is allowed in a user name.

    ``what`` names the part in the message.
    """
    problem = find_problem(text)
    if problem:
        raise NameRefusedError(f"{what} {text!a} {problem}")


def find_problem(text: str) -> str:
    """Return what is wrong with ``text`` as a part of a name, or nothing."""
    if not text:
        return "is empty"
    if text != text.strip():
        return "begins or ends with a blank"
    return _problem_of_length(text) or _problem_of_start(text) or _problem_within(text)


def _problem_of_length(text: str) -> str:
    size = len(text.encode("utf-8", "surrogatepass"))
    return f"is longer than {LONGEST_BYTES} bytes" if size > LONGEST_BYTES else ""


def _problem_of_start(text: str) -> str:
    if text.startswith("-"):
        # A PAM that calls ssh itself would take it for an option.
        return "begins with '-'"
    if unicodedata.category(text[0]).startswith("M"):
        return "begins with a combining character"
    return ""


def _problem_within(text: str) -> str:
    for char in text:
        if char in NEVER:
            return f"holds {char!r}"
        for is_refused, reason in _REFUSED:
            if is_refused(char):
                return f"holds {reason}: {char!a}"
    if unicodedata.normalize("NFKC", text) != text:
        return "holds a character that SSH rewrites (not in the form NFKC)"
    return ""


DEFAULT_PROTO: Final = "ssh"
DEFAULT_PORT: Final = 22

# More than Segura allows (facts/pam.md#segura-user-names): what a site may call it,
# without the characters that a shell, a path or a template reads differently.
_TENANT: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}")
_SERVICE: Final = re.compile(
    r"(.*)\{([a-z][a-z0-9]{0,15})\.([1-9][0-9]{0,4})\}", re.DOTALL
)


def parse_target(tenant: str, name: Name) -> Target:
    """Return the target that ``name`` means; raise ``NameRefusedError``."""
    whole, proto, port = _split_service(_decode(name))
    account, at, device = whole.rpartition("@")
    if not at:
        raise NameRefusedError(f"{whole!a} is not a target: it has no '@'")
    domain, credential = _split_domain(account)
    check_part("the credential", credential)
    check_part("the device", device)
    if "\\" in credential + device:
        raise NameRefusedError(f"{whole!a} contains a second or misplaced backslash")
    return Target(tenant, credential, device, domain, proto, port)


def target_name(target: Target) -> Name:
    """Return the one canonical name of ``target`` in its tenant's folder."""
    return Name(str(target).removeprefix(f"{target.tenant}/").encode())


def unlock_line(mountpoint: Path, target: Target) -> str:
    """Return what to type into a shell to open ``target`` from another terminal."""
    return f"pamfs unlock {shlex.quote(f'{mountpoint}/{target}')}"


def is_tenant_name(text: str) -> bool:
    """Whether ``text`` can be a tenant: one plain path component."""
    return _TENANT.fullmatch(text) is not None


def _decode(name: Name) -> str:
    if len(name) > LONGEST_BYTES:
        raise NameRefusedError(
            f"a name of {len(name)} bytes is not a target: it is too long"
        )
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise NameRefusedError(f"{name!r} is not a target: it is not UTF-8") from None


def _split_service(text: str) -> tuple[str, str, int]:
    if not text.endswith("}"):
        return text, DEFAULT_PROTO, DEFAULT_PORT
    found = _SERVICE.fullmatch(text)
    if found is None or int(found[3]) > 65535:  # noqa: PLR2004 - RFC 793
        raise NameRefusedError(f"{text!a} does not end in {{proto.port}}")
    return found[1], found[2], int(found[3])


def _split_domain(account: str) -> tuple[str, str]:
    domain, backslash, credential = account.partition("\\")
    if not backslash:
        return "", account
    check_part("the domain", domain)
    if "@" in domain:
        raise NameRefusedError(f"the domain {domain!a} holds '@'")
    return domain, credential
