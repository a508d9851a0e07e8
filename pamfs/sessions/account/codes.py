"""One-time codes from a seed: a code is issued at most once per seed and step.

A server that accepts each code once (RFC 6238, 5.2) would refuse the second login
that uses the same one. So the second login waits for the next time step, also across
tenants that share a seed and across daemons that share a ledger.

None is issued while the account backs off (``ledger``): PAM accounts lock.
"""

from __future__ import annotations

from base64 import b32decode, b32encode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import pyotp
import trio

from pamfs.errors import CannotAskError
from pamfs.model import Secret
from pamfs.sessions.account.clock import Clock, time_of_day
from pamfs.sessions.account.ledger import LedgerStore, LoginLedger, MemoryStore

# A code that expires on its way is a wrong answer, and wrong answers are counted.
SHORTEST_USE_S: Final = 2.0
# 80 bits: the seed length of the first authenticator apps, the shortest in use.
SHORTEST_SEED_BITS: Final = 80
_PYOTP_BYTES: Final = 14
# Added to the sleep, so that the task does not wake just before the next step.
MARGIN_S: Final = 0.01


@dataclass(frozen=True, slots=True)
class Code:
    """A code that was issued, and from when to when it is the current one."""

    secret: Secret
    begins_at: float
    ends_at: float


class Codes:
    """The issuer of codes, one for a mount; ``now`` is in seconds since the epoch."""

    def __init__(
        self,
        now: Callable[[], float] = time_of_day,
        store: LedgerStore | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.clock = clock or Clock(now)
        self._store = store or MemoryStore()
        self.ledger = LoginLedger(self._store, self.clock)

    async def issue(self, seed: Secret, account: str = "") -> Code:
        """Return a code that is fresh and was never issued before; may wait for it.

        ``seed`` is base32 or an ``otpauth://totp/`` URI. Raises
        ``CannotAskError`` if it is neither, ``LoginRefusedError`` while
        ``account`` backs off.
        """
        totp = _totp_of(seed)
        key = _key_of(totp)
        while True:
            # Again after each wait: another login may have been refused meanwhile.
            await self.ledger.check(account)
            now = self.clock.now()
            step = int(now // totp.interval)
            left_s = (step + 1) * totp.interval - now
            if left_s >= SHORTEST_USE_S and await self._claim(key, step):
                text = Secret(totp.generate_otp(step))
                return Code(text, step * totp.interval, (step + 1) * totp.interval)
            await trio.sleep(left_s + MARGIN_S)

    async def _claim(self, key: bytes, step: int) -> bool:
        return await self._store.change(lambda sheet: sheet.claim(key, step))


def _key_of(totp: pyotp.TOTP) -> bytes:
    # The same seed with another period counts its steps differently.
    return b"%d\0%s" % (totp.interval, totp.byte_secret())


def _totp_of(seed: Secret) -> pyotp.TOTP:
    text = seed.reveal().strip()
    try:
        if text.startswith("otpauth://"):
            otp = pyotp.parse_uri(_with_long_secret(text))
        else:
            otp = pyotp.TOTP(_lengthened(text))
    except _TooShortError:
        raise CannotAskError(
            f"the otp seed has less than {SHORTEST_SEED_BITS} bits: is it whole?"
        ) from None
    except Exception:  # noqa: BLE001 - the library's texts may quote the seed
        otp = None
    if isinstance(otp, pyotp.TOTP) and otp.interval > 0:
        if otp.interval <= SHORTEST_USE_S:
            raise CannotAskError(
                f"the otp seed's period of {otp.interval} s is too short: no code is"
                f" sent in the last {SHORTEST_USE_S:g} s of its period"
            )
        return otp
    raise CannotAskError("the otp seed is neither base32 nor otpauth://totp/...")


class _TooShortError(Exception):
    pass


def _with_long_secret(uri: str) -> str:
    parts = urlsplit(uri)
    if parts.netloc != "totp":
        raise ValueError(parts.netloc)
    words = [
        (key, _lengthened(value) if key == "secret" else value)
        for key, value in parse_qsl(parts.query, keep_blank_values=True)
    ]
    return urlunsplit(parts._replace(query=urlencode(words)))


def _lengthened(base32: str) -> str:
    """Return the seed as base32, padded with zero bytes as pyotp 2.12 needs it.

    HMAC fills a short key up with zeros itself (RFC 2104, section 2), so the
    codes are the same; the usual 16 characters are 80 bits.
    """
    plain = "".join(base32.replace("-", "").split()).upper().rstrip("=")
    if not plain:
        raise ValueError("empty")
    key = b32decode(plain + "=" * (-len(plain) % 8))
    if len(key) * 8 < SHORTEST_SEED_BITS:
        raise _TooShortError
    return b32encode(key.ljust(_PYOTP_BYTES, b"\0")).decode().rstrip("=")
