"""Rows about the mount itself: its start, and how many targets one mount carries."""

from __future__ import annotations

from typing import Final

from bench import content
from bench.rows import Job, Row, Setting, Sizes, Work


def _a_file(job: Job) -> None:
    content.small_files(job.server, 1)


def _targets(count: int) -> Row:
    return Row(
        name=f"targets-{count}",
        title="targets opened at once in one mount",
        counts="targets",
        sizes=Sizes(count, count, count),
        quick=Sizes(count, count, count),
        work=Work(
            # The first target is already open; each program waits for its own.
            script='for target in "$TARGETS"/*; do'
            ' cat "$target/$ROW/dir000/file00000" >/dev/null & pids="$pids $!";'
            " done; for pid in $pids; do wait $pid || exit 1; done",
            prepare=_a_file,
        ),
        setting=Setting(
            peers=frozenset({"pamfs"}),
            only_near=True,
            devices=count,
        ),
    )


ROWS: Final = (
    Row(
        name="first-byte",
        title="from mount to the first byte",
        counts="files",
        sizes=Sizes(1, 1, 1),
        quick=Sizes(1, 1, 1),
        work=Work(
            script="head -c 1 $REMOTE/dir000/file00000 >/dev/null",
            prepare=_a_file,
            over_ssh="$SSH head -c 1 $SERVER/dir000/file00000 >/dev/null",
        ),
        setting=Setting(
            from_mount=True,
        ),
    ),
)
GROWTH: Final = (_targets(1), _targets(20), _targets(200))
