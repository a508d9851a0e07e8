"""A code is issued once per seed and time step, and never in its last moments."""

from __future__ import annotations

import hmac

import pyotp
import pytest
import trio
from trio.testing import MockClock

from pamfs.errors import CannotAskError
from pamfs.model import Secret
from pamfs.sessions.account.codes import Codes

SEED = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
OTHER = "KRSXG5CTMVRXEZLUKRSXG5CTMVRXEZLU"


def at(instant: float, seed: str = SEED) -> str:
    return pyotp.TOTP(seed).at(int(instant))


async def test_the_first_code_comes_at_once(autojump_clock: MockClock) -> None:
    began = trio.current_time()
    code = await Codes(lambda: 60 + trio.current_time() - began).issue(Secret(SEED))
    assert code.secret.reveal() == at(60)
    assert trio.current_time() == began


async def test_a_second_target_with_the_same_seed_waits_for_the_next_step(
    autojump_clock: MockClock,
) -> None:
    began = trio.current_time()
    codes = Codes(lambda: 70 + trio.current_time() - began)
    first = await codes.issue(Secret(SEED))
    second = await codes.issue(Secret(SEED))
    assert [first.secret.reveal(), second.secret.reveal()] == [at(60), at(90)]
    assert trio.current_time() - began == pytest.approx(20, abs=0.1)


async def test_many_at_once_get_one_step_each(autojump_clock: MockClock) -> None:
    began = trio.current_time()
    codes = Codes(lambda: 60 + trio.current_time() - began)
    issued: list[str] = []

    async def take() -> None:
        issued.append((await codes.issue(Secret(SEED))).secret.reveal())

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(take)
    assert issued == [at(60), at(90), at(120), at(150)]


async def test_whoever_stops_waiting_uses_up_no_code(autojump_clock: MockClock) -> None:
    began = trio.current_time()
    codes = Codes(lambda: 60 + trio.current_time() - began)
    await codes.issue(Secret(SEED))
    with trio.move_on_after(5):
        await codes.issue(Secret(SEED))
    assert (await codes.issue(Secret(SEED))).secret.reveal() == at(90)


async def test_two_seeds_do_not_wait_for_each_other(autojump_clock: MockClock) -> None:
    codes = Codes(lambda: 60)
    assert (await codes.issue(Secret(SEED))).secret.reveal() == at(60)
    assert (await codes.issue(Secret(OTHER))).secret.reveal() == at(60, OTHER)


async def test_a_seed_is_the_same_however_it_is_written(
    autojump_clock: MockClock,
) -> None:
    began = trio.current_time()
    codes = Codes(lambda: 60 + trio.current_time() - began)
    await codes.issue(Secret(SEED))
    spaced = Secret(" jbsw y3dp ehpk 3pxp-jbsw-y3dp-ehpk-3pxp\n")
    assert (await codes.issue(spaced)).secret.reveal() == at(90)
    uri = Secret(f"otpauth://totp/acme:alice?secret={SEED}&issuer=acme")
    assert (await codes.issue(uri)).secret.reveal() == at(120)


@pytest.mark.parametrize("left", [1.9, 1.0, 0.0])
async def test_a_code_that_is_about_to_expire_is_not_used(
    left: float, autojump_clock: MockClock
) -> None:
    began = trio.current_time()
    codes = Codes(lambda: 90 - left + trio.current_time() - began)
    assert (await codes.issue(Secret(SEED))).secret.reveal() == at(90)


async def test_an_uri_says_digits_period_and_algorithm(
    autojump_clock: MockClock,
) -> None:
    uri = f"otpauth://totp/alice?secret={SEED}&digits=8&period=60&algorithm=SHA256"
    code = await Codes(lambda: 130).issue(Secret(uri))
    expected = pyotp.parse_uri(uri)
    assert isinstance(expected, pyotp.TOTP)
    assert code.secret.reveal() == expected.at(130)
    assert len(code.secret.reveal()) == 8


async def test_a_clock_that_was_set_back_does_not_repeat_a_code(
    autojump_clock: MockClock,
) -> None:
    began = trio.current_time()
    offset = [90.0]
    codes = Codes(lambda: offset[0] + trio.current_time() - began)
    await codes.issue(Secret(SEED))
    offset[0] = 60.0
    assert (await codes.issue(Secret(SEED))).secret.reveal() == at(120)


@pytest.mark.parametrize(
    "seed",
    [
        "not base32 !!",
        "otpauth://hotp/alice?secret=JBSWY3DP&counter=1",
        "otpauth://x",
        "",
    ],
)
async def test_a_wrong_seed_is_refused_without_being_quoted(seed: str) -> None:
    with pytest.raises(CannotAskError, match="neither base32") as caught:
        await Codes(lambda: 60).issue(Secret(seed))
    assert not seed or seed not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("period", [1, 2])
async def test_a_step_that_is_too_short_for_a_login_is_an_error(
    period: int, autojump_clock: MockClock
) -> None:
    seed = Secret(f"otpauth://totp/a?secret={SEED}&period={period}")
    with pytest.raises(CannotAskError, match="period"), trio.fail_after(60):
        await Codes(lambda: 60.5 + trio.current_time()).issue(seed)


async def test_the_shortest_step_waits_for_its_begin(autojump_clock: MockClock) -> None:
    seed = Secret(f"otpauth://totp/a?secret={SEED}&period=3")
    with trio.fail_after(60):
        code = await Codes(lambda: 62 + trio.current_time()).issue(seed)
    now = 62 + trio.current_time()
    assert code.begins_at <= now < code.begins_at + 1


@pytest.mark.parametrize(
    "seed",
    [
        "JBSWY3DPEHPK3PXP",
        "jbsw y3dp-ehpk 3pxp",
        "otpauth://totp/acme:alice?secret=JBSWY3DPEHPK3PXP&issuer=acme",
    ],
)
async def test_a_seed_of_sixteen_characters_gives_its_codes(seed: str) -> None:
    # RFC 4226, section 5.3, by hand: the library refuses to.
    digest = hmac.digest(b"Hello!\xde\xad\xbe\xef", (2).to_bytes(8, "big"), "sha1")
    start = digest[-1] & 0xF
    number = int.from_bytes(digest[start : start + 4], "big") & 0x7FFF_FFFF
    code = await Codes(lambda: 60).issue(Secret(seed))
    assert code.secret.reveal() == f"{number % 1_000_000:06}"


async def test_a_seed_that_lost_its_end_is_told_from_a_mistyped_one() -> None:
    with pytest.raises(CannotAskError, match="less than 80 bits"):
        await Codes(lambda: 60).issue(Secret("JBSWY3DPEHPK"))


@pytest.mark.parametrize("algorithm", ["SHA1", "SHA256", "SHA512"])
@pytest.mark.parametrize("digits", [6, 7, 8])
@pytest.mark.parametrize("period", [30, 60])
async def test_a_seed_is_used_as_its_uri_says(
    algorithm: str, digits: int, period: int
) -> None:
    uri = (
        f"otpauth://totp/acme:alice?secret={SEED}&issuer=acme"
        f"&algorithm={algorithm}&digits={digits}&period={period}"
    )
    code = await Codes(lambda: 130).issue(Secret(uri))
    # RFC 6238 by hand, with a key that needs no padding.
    counter = (130 // period).to_bytes(8, "big")
    key = pyotp.TOTP(SEED).byte_secret()
    digest = hmac.digest(key, counter, algorithm.lower())
    start = digest[-1] & 0xF
    number = int.from_bytes(digest[start : start + 4], "big") & 0x7FFF_FFFF
    assert code.secret.reveal() == f"{number % 10**digits:0{digits}}"
    assert (code.begins_at, code.ends_at) == (
        130 // period * period,
        code.begins_at + period,
    )


async def test_the_steps_of_another_period_are_other_steps(
    autojump_clock: MockClock,
) -> None:
    codes = Codes(lambda: 130)
    await codes.issue(Secret(SEED))
    uri = Secret(f"otpauth://totp/alice?secret={SEED}&period=60")
    assert (await codes.issue(uri)).begins_at == 120


@pytest.mark.parametrize("more", ["digits=5", "period=0", "period=-30", "period=x"])
async def test_an_uri_that_makes_no_sense_is_refused(more: str) -> None:
    seed = Secret(f"otpauth://totp/alice?secret={SEED}&{more}")
    with pytest.raises(CannotAskError):
        await Codes(lambda: 130).issue(seed)
