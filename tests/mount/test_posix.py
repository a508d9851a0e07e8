"""The conformance checks on every driver; the first one is the oracle."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

import pyfuse3
import pytest

from tests.fakes import faults
from tests.fakes.remote import Device, FakeTree
from tests.limits import PROGRAM_S
from tests.mount.conftest import World
from tests.mount.drivers import in_process
from tests.mount.harness import Command, Place, TookTooLongError
from tests.mount.kernel_names import readdir_reply
from tests.mount.posix import Check
from tests.mount.posix_real import RealOs
from tests.mount.posix_suite import CHECKS, DEVIANTS, PORTABLE, documented

DEVIATIONS = documented(Path(__file__).parents[2] / "docs" / "posix.md")
DEVICES = {"exact": Device(), "masking": Device(umask=0o077)}


def expected(name: str) -> Check:
    """Return what pamfs is held to: the check, or what its row says instead."""
    return DEVIANTS[name] if name in DEVIATIONS else CHECKS[name]


def test_every_deviation_has_a_row_and_every_row_a_deviation() -> None:
    assert DEVIATIONS.keys() == DEVIANTS.keys()
    assert DEVIATIONS.keys() <= CHECKS.keys()


@pytest.mark.parametrize("name", CHECKS)
def test_a_plain_folder_conforms(name: str, tmp_path: Path) -> None:
    CHECKS[name](RealOs(), os.fsencode(tmp_path))


@pytest.mark.parametrize("name", DEVIANTS)
def test_a_plain_folder_does_not_deviate(name: str, tmp_path: Path) -> None:
    with pytest.raises((AssertionError, OSError)):
        DEVIANTS[name](RealOs(), os.fsencode(tmp_path))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", PORTABLE)
@pytest.mark.parametrize("lifetime_s", [0.0, 3.0])
async def test_the_tree_behaves_as_documented(
    name: str, device: str, lifetime_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # pyfuse3 fills a buffer of the kernel's here; there is no kernel.
    monkeypatch.setattr(pyfuse3, "readdir_reply", readdir_reply)
    async with in_process(DEVICES[device], attr_timeout_s=lifetime_s) as driver:
        await driver.run(expected(name))
        await driver.paths.forget_all()
        assert driver.left_over() == []


LIARS = {
    faults.ForgetsAppend: "an_append_goes_to_the_end_there_is_now",
    faults.ReadsAtMost4K: "large_content_is_whole",
    faults.WritesHalf: "what_is_written_is_read",
    faults.LosesUnlinked: "an_unlinked_file_lives_while_it_is_open",
    faults.FollowsLinks: "times_are_set_on_the_link_itself",
    faults.CleansSymlinks: "a_link_says_what_it_was_told",
    faults.ListsAPart: "a_listing_has_every_name_once",
    faults.RemovesFullDirectories: "rmdir_removes_only_empty_directories",
}


@pytest.mark.parametrize("liar", LIARS, ids=lambda liar: liar.__name__)
async def test_a_device_that_lies_is_found_out(
    liar: type[FakeTree], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyfuse3, "readdir_reply", readdir_reply)
    # A tree that knows what it made would not ask, and not hear the lie.
    async with in_process(Device(), liar, attr_timeout_s=0) as driver:
        with pytest.raises((AssertionError, OSError)):
            await driver.run(CHECKS[LIARS[liar]])


# -- real mounts -----------------------------------------------------------

# The other worlds of conftest differ in nothing that a check looks at.
WORLDS = ["lab root", "lab ordinary allow_other", "openssh ordinary"]
Results = dict[str, str | None]


def copy_suite(place: Place) -> None:
    """Copy the checks to where the account of ``place`` can read them."""
    folder = place.folder / "tests" / "mount"
    folder.mkdir(parents=True)
    here = Path(__file__).parent
    for file in [*here.glob("posix*.py"), here / "open_flags.json"]:
        (folder / file.name).write_bytes(file.read_bytes())


def run_all(world: World) -> Results:
    """Run every check once on the mount; return what became of each."""
    place = world.place
    copy_suite(place)
    folder, report = world.on_mount("conformance"), place.folder / "results"
    place.run(["mkdir", folder])
    wanted = [["DEVIANTS" if n in DEVIATIONS else "CHECKS", n] for n in CHECKS]
    runner: Command = [
        place.account.python,
        "-m",
        "tests.mount.posix_runner",
        folder,
        report,
    ]
    # What had come to its end before the limit is in the report.
    with suppress(TookTooLongError):
        place.start(runner, timeout_s=PROGRAM_S, stdin=json.dumps(wanted).encode())
    found: Results = dict(map(json.loads, report.read_text().splitlines()))
    return found | cut_off([name for name in CHECKS if name not in found])


def cut_off(left: list[str]) -> Results:
    """Say of each check in ``left`` which one used up the time of all."""
    if not left:
        return {}
    hung, *after = left
    why: str | None = (
        f"it did not end within the {PROGRAM_S:g} s of all checks of this mount"
    )
    return {hung: why, **dict.fromkeys(after, f"not begun: {hung} did not end")}


def test_the_check_that_hung_names_itself() -> None:
    said = cut_off(["a", "b"])
    assert "did not end within" in str(said["a"])
    assert said["b"] == "not begun: a did not end"
    assert cut_off([]) == {}


# One test for each mount, and not for each check: the checks share the mount, and a
# runner that hands single tests to several processes would mount once in each.
@pytest.mark.parametrize(
    "world", WORLDS, indirect=True, scope="module", ids=lambda w: w.replace(" ", "-")
)
def test_a_mount_behaves_as_documented(world: World) -> None:
    results = run_all(world)
    assert results.keys() == CHECKS.keys()
    failed = {name: why for name, why in results.items() if why is not None}
    assert not failed, "\n\n".join(f"{name}: {why}" for name, why in failed.items())
