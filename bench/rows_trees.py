"""Rows about many small files and about walks through directories."""

from __future__ import annotations

from typing import Final

from bench import content
from bench.rows import Job, Row, Setting, Sizes, Work

FILES: Final = Sizes(1000, 100, 100)
QUICK_FILES: Final = Sizes(300, 50, 20)
ENTRIES: Final = Sizes(3000, 1000, 1000)
QUICK_ENTRIES: Final = Sizes(1000, 200, 200)
# A second walk waits for the line only if the first one took too long for the cache.
WARM_ENTRIES: Final = Sizes(3000, 300, 300)
NEAR_ENTRIES: Final = Sizes(3000, 0, 0)
QUICK_NEAR_ENTRIES: Final = Sizes(1000, 0, 0)


def _small_there(job: Job) -> None:
    content.small_files(job.server / "src", job.size)


def _small_here(job: Job) -> None:
    content.small_files(job.local / "src", job.size)


def _sources_here(job: Job) -> None:
    content.source_tree(job.local / "src", job.size)
    content.script(job, "tar -C $LOCAL -cf $LOCAL/src.tar src")


def _tree_there(job: Job) -> None:
    content.tree(job.server / "tree", job.size)


def _came_there(job: Job) -> bool:
    return content.same_files(job.local / "src", job.server / "out" / "src")


def walk(
    name: str,
    title: str,
    script: str,
    *,
    sizes: tuple[Sizes, Sizes] = (ENTRIES, QUICK_ENTRIES),
    warm: bool = False,
) -> Row:
    """Return a row that walks through the tree of entries."""
    return Row(
        name=name,
        title=title,
        counts="entries",
        sizes=sizes[0],
        quick=sizes[1],
        work=Work(
            script=f"{script} $REMOTE/tree >/dev/null",
            prepare=_tree_there,
            over_ssh=f"$SSH {script} $SERVER/tree >/dev/null",
            warm=f"{script} $REMOTE/tree >/dev/null" if warm else "",
        ),
    )


def _warm(script: str, sizes: Sizes) -> Row:
    name, _, _ = script.partition(" ")
    return walk(
        f"{name}-warm",
        f"{script}, warm",
        script,
        sizes=(sizes, QUICK_NEAR_ENTRIES),
        warm=True,
    )


def _growth(entries: int, short: str) -> Row:
    return Row(
        name=f"growth-{short}",
        title="ls -lR, a growing tree",
        counts="entries",
        sizes=Sizes(entries, entries, entries),
        quick=Sizes(entries // 10, entries // 10, entries // 10),
        work=Work(
            script="ls -lR $REMOTE/tree >/dev/null",
            prepare=_tree_there,
        ),
        setting=Setting(
            peers=frozenset({"pamfs", "sshfs"}),
            only_near=True,
        ),
    )


ROWS: Final = (
    Row(
        name="cp-in",
        title="cp -r of files of 8 KiB into the mount, until stored",
        counts="files",
        sizes=FILES,
        quick=QUICK_FILES,
        work=Work(
            script="cp -r $LOCAL/src $REMOTE/out/src",
            prepare=_small_here,
            over_ssh="tar -C $LOCAL -cf - src | $SSH tar -C $SERVER/out -xf -",
            reset="rm -rf $SERVER/out; mkdir $SERVER/out",
            is_stored=_came_there,
        ),
    ),
    Row(
        name="cp-out",
        title="cp -r of files of 8 KiB out of the mount",
        counts="files",
        sizes=FILES,
        quick=QUICK_FILES,
        work=Work(
            script="cp -r $REMOTE/src $LOCAL/in/src",
            prepare=_small_there,
            over_ssh="$SSH tar -C $SERVER -cf - src | tar -C $LOCAL/in -xf -",
            reset="rm -rf $LOCAL/in; mkdir $LOCAL/in",
        ),
    ),
    Row(
        name="tar-x",
        title="tar x of a source tree, until stored",
        counts="files",
        sizes=Sizes(1000, 100, 0),
        quick=Sizes(200, 40, 0),
        work=Work(
            script="tar -C $REMOTE/out --no-same-owner -xf $LOCAL/src.tar",
            prepare=_sources_here,
            over_ssh="$SSH tar -C $SERVER/out --no-same-owner -xf - <$LOCAL/src.tar",
            reset="rm -rf $SERVER/out; mkdir $SERVER/out",
            is_stored=_came_there,
        ),
    ),
    walk("find", "find, cold", "find"),
    _warm("find", NEAR_ENTRIES),
    walk("ls", "ls -lR, cold", "ls -lR", sizes=(ENTRIES, QUICK_NEAR_ENTRIES)),
    _warm("ls -lR", WARM_ENTRIES),
    walk("du", "du, cold", "du", sizes=(ENTRIES, QUICK_NEAR_ENTRIES)),
    _warm("du", NEAR_ENTRIES),
)
GROWTH: Final = (
    _growth(1000, "1k"),
    _growth(10_000, "10k"),
    _growth(100_000, "100k"),
)
