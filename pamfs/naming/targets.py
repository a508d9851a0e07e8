r"""Path components as targets: ``[domain\]credential@device[{proto.port}]``.

Split at the last ``@`` (facts/pam.md#segura-user-names). Law: a
component that could break out of a user name's grammar is no target.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Final

from pamfs.errors import NameRefusedError
from pamfs.model import Name, Target
from pamfs.naming.parts import LONGEST_BYTES, check_part

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
        raise NameRefusedError(f"{whole!a} is no target: there is no '@' in it")
    domain, credential = _split_domain(account)
    check_part("the credential", credential)
    check_part("the device", device)
    if "\\" in credential + device:
        raise NameRefusedError(f"{whole!a} holds a second or misplaced backslash")
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
        raise NameRefusedError(f"a name of {len(name)} bytes is no target")
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise NameRefusedError(f"{name!r} is no target: not UTF-8") from None


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
