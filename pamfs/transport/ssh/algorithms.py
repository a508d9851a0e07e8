"""Which SSH algorithms are offered to a proxy: by default none with SHA-1 or CBC.

A tenant can allow single old algorithms by name (``old_algorithms``), for devices that
have no others; they come last in the offer. Logins and key scans offer the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Final

import asyncssh
from asyncssh.encryption import get_default_encryption_algs, get_encryption_algs
from asyncssh.kex import get_default_kex_algs, get_kex_algs
from asyncssh.mac import get_default_mac_algs, get_mac_algs
from asyncssh.public_key import (
    get_certificate_algs,
    get_default_certificate_algs,
    get_default_public_key_algs,
    get_public_key_algs,
)

from pamfs.config import OldAlgorithm

_OLD: Final = re.compile(r"sha1|cbc|3des|arcfour|md5|^ssh-rsa$|^ssh-rsa-cert-|^ssh-dss")
# A KEXINIT packet (RFC 4253, 7.1) is: its type, a cookie, then name lists.
_HEAD_BYTES: Final = 17
_LISTS: Final = 5  # key exchange, host key, two of ciphers, the first of MACs
# Ciphers that authenticate by themselves and use no MAC.
_AEAD: Final = re.compile(rb"gcm|poly1305")
_RSA: Final = b"ssh-rsa"
# The last one is used if the server does not list what it accepts (RFC 8332, 3.3).
_RSA_SHA2: Final = (b"rsa-sha2-512", b"rsa-sha2-256")

Algorithms = Callable[[], Sequence[bytes]]


def offered(old: Collection[OldAlgorithm], *, any_key: bool) -> dict[str, object]:
    """Return the options of ``asyncssh.connect`` that set the algorithms.

    ``any_key``: accept each type of host key. Without it asyncssh asks for the types
    of the known keys, and only the old types are removed from them.
    """
    allowed = [one.value for one in old]
    return {
        "kex_algs": _sound(get_default_kex_algs, get_kex_algs, allowed),
        "encryption_algs": [
            *_fast_ciphers(),
            *_sound(get_default_encryption_algs, get_encryption_algs, allowed),
        ],
        "mac_algs": _sound(get_default_mac_algs, get_mac_algs, allowed),
        "signature_algs": _sound(_default_keys, get_public_key_algs, allowed),
        "server_host_key_algs": _host_keys(allowed, any_key=any_key),
    }


def use_sha2(
    keys: Sequence[asyncssh.SSHKeyPair], old: Collection[OldAlgorithm]
) -> None:
    """Have RSA keys sign with SHA-2, unless SHA-1 is allowed.

    If the server does not list what it accepts, asyncssh alone would sign with SHA-1.
    """
    for pair in keys:
        if pair.algorithm == _RSA and OldAlgorithm.SSH_RSA not in old:
            pair.sig_algorithms = _RSA_SHA2
            pair.set_sig_algorithm(_RSA_SHA2[-1])


def missing_old(connection: asyncssh.SSHClientConnection | None) -> str:
    """Return advice: the old algorithms to allow so that the key exchange works.

    Empty if it failed for another reason. Some servers hang up without a message if
    no algorithm is common, so the server's own KEXINIT is compared with ours.
    """
    shown = getattr(connection, "_server_kexinit", b"")
    theirs = list(_lists_of(shown[_HEAD_BYTES:]))
    if len(theirs) < _LISTS:
        return ""
    ours = [
        getattr(connection, name, None) or ()
        for name in ("_kex_algs", "_server_host_key_algs", "_enc_algs", "_mac_algs")
    ]
    pairs = list(zip(ours, [*theirs[:3], theirs[4]], strict=True))
    common = [set(mine) & set(has) for mine, has in pairs]
    if any(_AEAD.search(name) for name in common[2]):
        pairs, common = pairs[:3], common[:3]
    names = [
        _first_old(has, mine if number == 1 else None)
        for number, (mine, has) in enumerate(pairs)
        if not common[number]
    ]
    if not any(names):
        return ""
    listed = ", ".join(f'"{name}"' for name in names if name)
    return (
        "it offers only old algorithms, which this tenant does not allow; if it cannot"
        f" be updated, add to the tenant: old_algorithms = [{listed}]"
    )


def _lists_of(payload: bytes) -> Iterator[Sequence[bytes]]:
    for _ in range(_LISTS):
        size = int.from_bytes(payload[:4], "big")
        if not 0 < size <= len(payload) - 4:
            return
        yield payload[4 : 4 + size].split(b",")
        payload = payload[4 + size :]


def _first_old(has: Sequence[bytes], keys: Sequence[bytes] | None) -> str:
    """Return the first old algorithm in ``has``, "" if none.

    With ``keys`` only one of an accepted key type.
    """
    for one in OldAlgorithm:
        is_known_kind = (
            not keys
            or (one is OldAlgorithm.SSH_RSA and _RSA_SHA2[0] in keys)
            or b"ssh-ed25519" in keys
        )
        if one.value.encode() in has and is_known_kind:
            return one.value
    return ""


def _default_keys() -> Sequence[bytes]:
    return get_default_public_key_algs()


def _host_keys(allowed: Sequence[str], *, any_key: bool) -> str | Sequence[str]:
    certificates = get_certificate_algs()
    if any_key:
        return [
            *_sound(get_default_certificate_algs, lambda: certificates, allowed),
            *_sound(_default_keys, get_public_key_algs, allowed),
        ]
    every = [name.decode() for name in (*get_public_key_algs(), *certificates)]
    left_out = [name for name in every if _OLD.search(name) and name not in allowed]
    return f"-{','.join(left_out)}" if left_out else ()


def _sound(default: Algorithms, every: Algorithms, allowed: Sequence[str]) -> list[str]:
    """Return the defaults without the old ones, then the old ones in ``allowed``."""
    sound = [name.decode() for name in default()]
    possible = [name.decode() for name in every()]
    return [
        *(name for name in sound if not _OLD.search(name)),
        *(name for name in allowed if name in possible),
    ]


@cache
def _fast_ciphers() -> Sequence[str]:
    """Return the ciphers that are fastest on this machine; they are offered first."""
    try:
        has_aes = " aes " in Path("/proc/cpuinfo").read_text()
    except OSError:
        has_aes = False
    if has_aes:
        return ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
    return ("chacha20-poly1305@openssh.com",)
