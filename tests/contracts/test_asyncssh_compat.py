"""An asyncssh that is not as pamfs knows it: slower, plainer, or refused by a mount."""

from __future__ import annotations

import importlib
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest
import trio
from asyncssh.sftp import SFTPClientHandler

from pamfs.private_names import LibraryError, Names
from pamfs.transport.sftp import wire
from pamfs.transport.ssh import asyncssh_compat
from pamfs.transport.ssh.asyncssh_compat import ESSENTIAL, FAST_PATH, REPLACEABLE, check
from tests.contracts.conftest import GCM
from tests.contracts.implementations import sftp_over_openssh
from tests.contracts.promise import content_of, store, under
from tests.limits import HANG_S, PROGRAM_S

# The first of these that runs waits for some forty logins.
pytestmark = pytest.mark.timeout(PROGRAM_S + HANG_S)

ROOT = Path(__file__).parents[2]
CONTENT = bytes(range(256)) * 4096
CLASSES = sorted({names.owner for names in FAST_PATH if ":" in names.owner})


def private(group: tuple[Names, ...]) -> list[str]:
    found = {name for names in group for name in names.names}
    return sorted(name for name in found if name.startswith("_"))


SLOWER = sorted(set(private(FAST_PATH)) - set(private(ESSENTIAL)))
PLAINER = sorted(set(private(REPLACEABLE)) - set(SLOWER))
PLAINER.append("request_limits")
REFUSED = private(ESSENTIAL)
# Private names that pamfs used once and needs no more, and one that is nowhere.
UNUSED = ["_loop", "_nonstandard_symlink", "_return_types", "_nowhere"]


def run_renamed(folder: Path) -> Iterator[tuple[str, dict[str, object]]]:
    names = [*SLOWER, *PLAINER, *REFUSED, *UNUSED]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.contracts.renamed_run",
            folder,
            "asyncssh",
            *names,
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=PROGRAM_S,
        cwd=ROOT,
    )
    for line in done.stdout.splitlines():
        found = json.loads(line)
        yield found.pop("name"), found


@pytest.fixture(scope="module")
def renamed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """What a mount does with each private name of asyncssh called differently."""
    return dict(run_renamed(tmp_path_factory.mktemp("renamed")))


@pytest.mark.parametrize("name", SLOWER)
def test_without_a_name_of_the_fast_path_files_work_slower(
    name: str, renamed: dict[str, dict[str, object]]
) -> None:
    assert renamed[name] == {"is_short": False}


@pytest.mark.parametrize("name", PLAINER)
def test_without_a_name_that_can_be_replaced_files_work(
    name: str, renamed: dict[str, dict[str, object]]
) -> None:
    assert renamed[name] == {"is_short": True}


@pytest.mark.parametrize("name", UNUSED)
def test_a_name_that_is_not_used_may_change(
    name: str, renamed: dict[str, dict[str, object]]
) -> None:
    assert renamed[name] == {"is_short": True}


@pytest.mark.parametrize("name", REFUSED)
def test_without_an_essential_name_the_mount_says_which_version_to_install(
    name: str, renamed: dict[str, dict[str, object]]
) -> None:
    said = str(renamed[name]["refused"])
    assert f".{name}" in said
    assert f"asyncssh {asyncssh.__version__} has no " in said
    assert said.endswith("pip install 'asyncssh>=2.21,<2.25'")
    assert "\n" not in said


@pytest.fixture
def afresh(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Have everything looked at, and logged, once more."""
    caplog.set_level(logging.INFO, "pamfs.transport.ssh.asyncssh_compat")
    cached = (
        asyncssh_compat.can_start_sftp,
        asyncssh_compat.has_fast_path,
        asyncssh_compat.note_slower,
        wire._fast_path_class,
    )
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


def named(group: tuple[Names, ...]) -> list[tuple[str, str]]:
    return [(names.owner, name) for names in group for name in names.names]


def is_on_the_class(owner: str, name: str) -> bool:
    return name in vars(owner_of(owner))


def owner_of(owner: str) -> object:
    module, _, kind = owner.partition(":")
    found: object = importlib.import_module(module)
    return getattr(found, kind) if kind else found


@pytest.mark.parametrize(
    ("owner", "name"), [pair for pair in named(ESSENTIAL) if is_on_the_class(*pair)]
)
def test_each_essential_name_is_looked_for(
    owner: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(owner_of(owner), name)
    with pytest.raises(LibraryError, match=rf"\.{name}\b"):
        check()


@pytest.mark.usefixtures("afresh")
@pytest.mark.parametrize(
    ("owner", "name"),
    [pair for pair in named((*FAST_PATH, *REPLACEABLE)) if is_on_the_class(*pair)],
)
def test_each_name_that_is_not_essential_is_looked_for(
    owner: str,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.delattr(owner_of(owner), name)
    check()
    said = [record for record in caplog.records if name in record.getMessage()]
    assert [record.levelname for record in said] == ["INFO"]


@pytest.mark.usefixtures("afresh")
def test_a_function_that_takes_other_arguments_is_as_good_as_missing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class NeedsMore(SFTPClientHandler):
        def __init__(self, loop: object, reader: object, newest: object) -> None: ...

    monkeypatch.setattr("asyncssh.sftp.SFTPClientHandler", NeedsMore)
    check()
    assert not asyncssh_compat.can_start_sftp()
    (record,) = caplog.records
    assert "asyncssh.sftp.SFTPClientHandler" in record.getMessage()


@pytest.mark.usefixtures("afresh")
def test_this_asyncssh_has_all(caplog: pytest.LogCaptureFixture) -> None:
    check()
    assert caplog.records == []


async def check_own_way(folder: Path) -> None:
    """Check that data arrives, and that nothing of it went the fast path."""
    with (
        trio.fail_after(HANG_S),
        sftp_over_openssh(folder, encryption_algs=GCM) as device,
    ):
        async with trio.open_nursery() as nursery:
            tree = device.new_tree(nursery)
            path = under(device.new_folder("f"), b"f")
            await store(tree, path, CONTENT)
            assert await content_of(tree, path) == CONTENT
        assert "send_packet" not in vars(device.client._handler)


@pytest.mark.usefixtures("afresh")
@pytest.mark.parametrize(
    "owner", [owner for owner in CLASSES if "Encryption" not in owner]
)
async def test_objects_without_a_name_go_asyncsshs_own_way(
    owner: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    more = (*FAST_PATH, Names(owner, ("_gone",)))
    monkeypatch.setattr(asyncssh_compat, "FAST_PATH", more)
    # The class promises it, the object lacks it.
    monkeypatch.setattr(asyncssh_compat, "missing", lambda _: [])
    await check_own_way(tmp_path)
    said = [(r.levelname, r.getMessage()) for r in caplog.records]
    assert len(said) == 1
    assert said[0][0] == "INFO"
    assert said[0][1].endswith(f"its {owner.partition(':')[2]} has no _gone")


@pytest.mark.usefixtures("afresh")
async def test_a_version_that_was_not_tried_goes_its_own_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(asyncssh, "__version__", "2.99.0")
    await check_own_way(tmp_path)
    assert [record.levelname for record in caplog.records] == ["INFO"]
