"""One-time codes from a seed: a code is issued at most once per seed and step.

A server that accepts each code once (RFC 6238, 5.2) would refuse the second
target that uses the same one. Whoever comes second waits for the next time step,
also across tenants that share a seed, and across daemons that share a state.

Law: of one seed at one account at most ``MOST_REFUSED`` codes are refused in
``REST_S``; then none is issued, whoever asks. PAM accounts lock. Refusals of what else
no person gave (a password from a file) are counted beside them, as those of no seed.
"""

from __future__ import annotations

from base64 import b32decode, b32encode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import pyotp
import trio

from pamfs.errors import CannotAskError, LoginRefusedError
from pamfs.model import Secret
from pamfs.sessions.clock import Clock, as_text, time_of_day
from pamfs.sessions.codes_state import CodesState, MemoryState, Sheet

# A code that expires on its way is a wrong answer, and wrong answers are counted.
SHORTEST_USE_S: Final = 2.0
# The shortest that is in use, by the first authenticator apps.
SHORTEST_SEED_BITS: Final = 80
_PYOTP_BYTES: Final = 14
# A round trip on a busy machine: never wake just before the step.
MARGIN_S: Final = 0.01
REST_S: Final = 600.0
MOST_REFUSED: Final = 2


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
        state: CodesState | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.clock = clock or Clock(now)
        self._state = state or MemoryState()

    async def issue(self, seed: Secret, account: str = "") -> Code:
        """Return a code that is fresh and was never issued before; may wait for it.

        ``seed`` is base32 or an ``otpauth://totp/`` URI. Raises
        ``CannotAskError`` if it is neither, ``LoginRefusedError`` while the
        seed's codes rest at ``account``.
        """
        totp = _totp_of(seed)
        key = _key_of(totp)
        while True:
            # Again after each wait: meanwhile somebody else's may have been refused.
            await self.check_rest(seed, account)
            now = self.clock.now()
            step = int(now // totp.interval)
            left_s = (step + 1) * totp.interval - now
            if left_s >= SHORTEST_USE_S and await self._claim(key, step):
                text = Secret(totp.generate_otp(step))
                return Code(text, step * totp.interval, (step + 1) * totp.interval)
            await trio.sleep(left_s + MARGIN_S)

    async def note_refused(self, seed: Secret | None, account: str) -> None:
        """Note that ``account`` refused a code of ``seed``, or what no person gave."""
        now = self.clock.now()
        await self._set_refusals(seed, account, lambda old: [*old, now])

    async def note_accepted(self, seed: Secret | None, account: str) -> None:
        """Note that ``account`` accepted what it is refused no more."""
        await self._set_refusals(seed, account, lambda _old: [])

    async def pardon(self, account: str) -> None:
        """Forget what ``account`` refused: a person says that it is right now."""

        def forget(sheet: Sheet) -> bool:
            sheet.pardon(account.encode())
            return True

        await self._state.change(forget)

    async def rest_s(self, seed: Secret | None, account: str) -> float:
        """Return for how long nothing of the kind is sent to ``account``."""
        key = _mark_of(seed)
        found: list[float] = []

        def look(sheet: Sheet) -> bool:
            found.extend(sheet.refusals(account.encode(), key))
            return True

        await self._state.change(look)
        last = found[-MOST_REFUSED:]
        if len(last) < MOST_REFUSED or last[-1] - last[0] >= REST_S:
            return 0.0
        age_s = self.clock.now() - last[-1]
        return REST_S - age_s if 0 <= age_s < REST_S else 0.0

    async def check_rest(self, seed: Secret | None, account: str) -> None:
        """Raise ``LoginRefusedError`` while nothing of the kind is sent there."""
        rest_s = await self.rest_s(seed, account)
        if rest_s > 0:
            what = "logins that nobody typed a secret for"
            what = what if seed is None else "one-time codes of this seed"
            until = as_text(self.clock.now() + rest_s)
            raise LoginRefusedError(
                f"{MOST_REFUSED} {what} were refused: none is sent before {until}",
                rest_s=rest_s,
            )

    async def _claim(self, key: bytes, step: int) -> bool:
        return await self._state.change(lambda sheet: sheet.claim(key, step))

    async def _set_refusals(
        self,
        seed: Secret | None,
        account: str,
        plan: Callable[[list[float]], list[float]],
    ) -> None:
        at, key = account.encode(), _mark_of(seed)

        def note(sheet: Sheet) -> bool:
            sheet.set_refusals(at, key, plan(sheet.refusals(at, key)))
            return True

        await self._state.change(note)


def _mark_of(seed: Secret | None) -> bytes:
    # Of a password nothing is kept, not even a digest: it could be guessed from that.
    return b"no seed" if seed is None else _key_of(_totp_of(seed))


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
    """Return the seed with zeros behind it, as long as pyotp 2.12 wants it.

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
