"""The programs that people use, on a mount, judged by the bytes that arrive.

What a program wrote through the mount is compared on the device's own disk, and
what it reads through the mount with the source; one of the two alone could be
the page cache talking to itself.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.limits import PROGRAM_S
from tests.mount.conftest import World
from tests.mount.trees import make_huge, make_sparse, make_tree


@pytest.fixture(scope="module")
def source(world: World) -> Path:
    """Return a tree on the local disk with everything that makes trouble."""
    folder = world.place.folder / "source"
    make_tree(folder, (world.place.account.uid, world.place.account.gid))
    return folder


def assert_arrived(world: World, source: Path, name: str) -> None:
    """Compare a tree on the mount, and on the device, with its source."""
    wanted = world.place.manifest(source)
    assert world.place.manifest(world.on_device(name)) == wanted
    assert world.place.manifest(world.on_mount(name)) == wanted


def test_cp_brings_a_tree_in_and_out_again(world: World, source: Path) -> None:
    back = world.place.folder / "back"
    world.place.run(["cp", "-a", source, world.on_mount("cp")], timeout_s=PROGRAM_S)
    assert_arrived(world, source, "cp")
    world.place.run(["cp", "-a", world.on_mount("cp"), back], timeout_s=PROGRAM_S)
    assert world.place.manifest(back) == world.place.manifest(source)


def test_a_second_rsync_moves_nothing(world: World, source: Path) -> None:
    command = ["rsync", "-a", "--itemize-changes", "--stats", f"{source}/"]
    there = world.on_mount("rsync") + b"/"
    first = world.place.run([*command, there], timeout_s=PROGRAM_S).decode(
        errors="replace"
    )
    assert_arrived(world, source, "rsync")
    second = world.place.run([*command, there], timeout_s=PROGRAM_S).decode(
        errors="replace"
    )
    assert moved_files(first) > 0
    assert moved_files(second) == 0
    assert itemized(first)
    assert itemized(second) == []


def moved_files(stats: str) -> int:
    """Return how many regular files rsync says that it moved."""
    found = re.search(r"Number of regular files transferred: ([\d,]+)", stats)
    assert found, stats
    return int(found[1].replace(",", ""))


def itemized(output: str) -> list[str]:
    """Return the lines by which rsync tells a change."""
    return [
        line for line in output.splitlines() if re.match(r"[<>ch.*][fdLDS]\S{9} ", line)
    ]


def test_tar_packs_and_unpacks_on_the_mount(world: World, source: Path) -> None:
    archive, out = world.on_mount("tree.tar"), world.on_mount("untarred")
    world.place.run(["tar", "-cf", archive, "-C", source, "."], timeout_s=PROGRAM_S)
    world.place.run(["mkdir", out])
    world.place.run(["tar", "-xpf", archive, "-C", out], timeout_s=PROGRAM_S)
    assert_arrived(world, source, "untarred")


def test_git_clones_commits_and_finds_nothing_wrong(world: World) -> None:
    run = world.place.run
    origin, clone = world.place.folder / "origin", world.on_mount("clone")
    run(["git", "init", "-q", "-b", "main", origin])
    run(["sh", "-c", "seq 20000 >numbers; mkdir -p a/b; echo hi >a/b/c"])
    run(["cp", "-r", "numbers", "a", origin])
    run(["git", "-C", origin, "add", "."])
    run(["git", "-C", origin, "commit", "-q", "-m", "first"])
    run(["git", "clone", "-q", origin, clone], timeout_s=PROGRAM_S)
    assert run(["git", "-C", clone, "status", "--porcelain"]) == b""
    run(["sh", "-c", 'echo more >>"$0"/numbers', clone])
    run(["git", "-C", clone, "commit", "-q", "-a", "-m", "second"])
    run(["git", "-C", clone, "gc", "-q"], timeout_s=PROGRAM_S)
    run(["git", "-C", clone, "fsck", "--full", "--strict"], timeout_s=PROGRAM_S)
    subjects = run(["git", "-C", clone, "log", "--format=%s"])
    assert subjects == b"second\nfirst\n"
    run(["git", "-C", clone, "push", "-q", "origin", "HEAD:pushed"])
    pushed = run(["git", "-C", origin, "rev-parse", "pushed"])
    assert pushed == run(["git", "-C", clone, "rev-parse", "HEAD"])


def test_sqlite_keeps_a_database_whole(world: World) -> None:
    database = world.on_mount("data.db")
    make = (
        "create table t(id integer primary key, body text);"
        "begin; with recursive n(i) as (select 1 union all select i+1 from n"
        " where i<2000) insert into t select i, hex(randomblob(50)) from n; commit;"
        "update t set body='changed' where id % 7 = 0; delete from t where id % 11 = 0;"
    )
    world.place.run(["sqlite3", database, make], timeout_s=PROGRAM_S)
    ask = "pragma integrity_check; select count(*), sum(body='changed') from t;"
    answer = world.place.run(["sqlite3", database, ask])
    assert answer == b"ok\n1819|260\n"
    assert world.place.run(["sqlite3", world.on_device("data.db"), ask]) == answer


def test_restic_backs_up_checks_and_restores(world: World, source: Path) -> None:
    repository, restored = world.on_mount("restic"), world.place.folder / "restored"
    restic: list[str | bytes] = ["restic", "--quiet", "-r", repository]
    world.place.run([*restic, "init"], timeout_s=PROGRAM_S)
    world.place.run([*restic, "backup", source], timeout_s=PROGRAM_S)
    world.place.run([*restic, "check", "--read-data"], timeout_s=PROGRAM_S)
    world.place.run(
        [*restic, "restore", "latest", "--target", restored], timeout_s=PROGRAM_S
    )
    got = world.place.manifest(restored / source.relative_to("/"))
    assert got == world.place.manifest(source)


def test_borg_creates_checks_and_extracts(world: World, source: Path) -> None:
    repository, out = world.on_mount("borg"), world.on_mount("extracted")
    borg, name = ["borg", "--lock-wait", "10"], repository + b"::first"
    world.place.run([*borg, "init", "-e", "repokey", repository], timeout_s=PROGRAM_S)
    inside = ["sh", "-c", 'cd "$0" && exec "$@"']
    world.place.run([*inside, source, *borg, "create", name, "."], timeout_s=PROGRAM_S)
    world.place.run([*borg, "check", "--verify-data", repository], timeout_s=PROGRAM_S)
    world.place.run(["mkdir", out])
    world.place.run([*inside, out, *borg, "extract", name], timeout_s=PROGRAM_S)
    assert_arrived(world, source, "extracted")


def test_a_sparse_file_arrives_as_it_is(world: World) -> None:
    source = world.place.folder / "sparse"
    make_sparse(source)
    source.chmod(0o644)
    for how in ("always", "never"):
        copy = f"sparse-{how}"
        world.place.run(["cp", f"--sparse={how}", source, world.on_mount(copy)])
        world.place.run(["cmp", source, world.on_device(copy)])
        world.place.run(["cmp", source, world.on_mount(copy)])


@pytest.mark.slow  # a gibibyte each way shows what short files do not: windows, memory
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("world", ["lab ordinary"], indirect=True)
def test_a_gibibyte_arrives_both_ways(world: World) -> None:
    source = world.place.folder / "huge"
    make_huge(source, 1024)
    source.chmod(0o644)
    world.place.run(["cp", source, world.on_mount("huge")], timeout_s=PROGRAM_S)
    world.place.run(["cmp", source, world.on_device("huge")])
    world.place.run(["mv", source, world.on_device("huge-there")])
    # Never written through this mount: its pages come from the device.
    world.place.run(
        ["cmp", world.on_device("huge"), world.on_mount("huge-there")],
        timeout_s=PROGRAM_S,
    )
    for name in ("huge", "huge-there"):
        os.unlink(world.on_device(name))


def test_everything_can_be_removed_again(world: World, source: Path) -> None:
    world.place.run(["cp", "-a", source, world.on_mount("gone")], timeout_s=PROGRAM_S)
    world.place.run(["rm", "-r", world.on_mount("gone")], timeout_s=PROGRAM_S)
    assert not os.path.lexists(world.on_device("gone"))
