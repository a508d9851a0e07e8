"""Rows about the content of single files: streams, random reads, a database."""

from __future__ import annotations

import json
from typing import Final

from bench import content
from bench.rows import MIB, Job, Row, Sizes, Unit, Value, Work, moves_bytes

_FIO: Final = (
    "fio --name=random --filename=$REMOTE/data --readonly --rw=randread --bs=4k"
    " --ioengine=psync --thread --group_reporting --time_based --runtime=2"
    " --size=${{N}}M --output-format=json --numjobs={jobs}"
)


def _one_file(job: Job) -> None:
    content.big_file(job.server / "data", job.size)


def _sparse_file(job: Job) -> None:
    """So big that hardly any block is read twice; nothing of it needs room."""
    with (job.server / "data").open("wb") as file:
        file.truncate(job.size * MIB)


def _local_file(job: Job) -> None:
    content.big_file(job.local / "data", job.size)


def _eight_files(job: Job) -> None:
    for number in range(8):
        content.big_file(job.server / f"data{number}", job.size // 8)


def _is_written(job: Job) -> bool:
    path = job.server / "out"
    return path.exists() and path.stat().st_size == job.size * MIB


def _reads_per_second(out: str, _: float, __: int) -> float:
    (jobs,) = json.loads(out)["jobs"]
    return float(jobs["read"]["iops"])


def _statements(job: Job) -> None:
    """Write N small transactions, a scan, a change of every tenth row."""
    lines = ["create table entries (id integer primary key, text);"]
    for number in range(job.size):
        rows = ",".join(f"({number * 10 + n}, 'row {n}')" for n in range(10))
        lines.append(f"begin; insert into entries values {rows}; commit;")  # noqa: S608
    lines.append("select sum(length(text)) from entries;")
    lines.append("update entries set text = 'new' where id % 10 = 0;")
    (job.local / "work.sql").write_text("\n".join(lines))


_IN_TURN: Final = (
    "import os, sys\n"
    "file = os.open(sys.argv[1], os.O_RDWR)\n"
    "for number in range(int(sys.argv[2])):\n"
    "    at = number * 7919 % 4096 * 2048\n"
    "    os.pwrite(file, bytes(2048), at)\n"
    "    {after}\n"
    "os.close(file)\n"
)


def _small_writes(name: str, title: str, after: str) -> Row:
    """Return a row of 2 KiB writes in 8 MiB, no two at one place, none beside another.

    The program is in one process, so what is timed is the mount.
    """
    return Row(
        name=name,
        title=title,
        counts="writes",
        sizes=Sizes(3000, 100, 0),
        quick=Sizes(500, 0, 0),
        work=Work(
            script=f"python3 -c '{_IN_TURN.format(after=after)}' $REMOTE/data $N",
            prepare=lambda job: content.big_file(job.server / "data", 8),
        ),
    )


def _random_reads(jobs: int) -> Row:
    return Row(
        name=f"random-{jobs}",
        title=f"random 4 KiB reads, depth {jobs} (fio)",
        counts="MiB",
        sizes=Sizes(8192, 8192, 8192 if jobs > 1 else 0),
        quick=Sizes(8192, 8192, 8192) if jobs > 1 else Sizes(0, 0, 0),
        work=Work(
            script=_FIO.format(jobs=jobs),
            prepare=_sparse_file,
        ),
        value=Value(unit=Unit.READS, of=_reads_per_second),
    )


ROWS: Final = (
    Row(
        name="seq-read",
        title="sequential read",
        counts="MiB",
        sizes=Sizes(512, 64, 32),
        quick=Sizes(64, 16, 16),
        work=Work(
            script="cat $REMOTE/data >/dev/null",
            prepare=_one_file,
            over_ssh="$SSH cat $SERVER/data >/dev/null",
        ),
        value=Value(unit=Unit.RATE, of=moves_bytes),
    ),
    Row(
        name="seq-write",
        title="sequential write, until stored",
        counts="MiB",
        sizes=Sizes(512, 64, 32),
        quick=Sizes(64, 16, 16),
        work=Work(
            script="dd if=$LOCAL/data of=$REMOTE/out bs=1M status=none",
            prepare=_local_file,
            over_ssh='$SSH "cat >$SERVER/out" <$LOCAL/data',
            reset="rm -f $SERVER/out",
            is_stored=_is_written,
        ),
        value=Value(unit=Unit.RATE, of=moves_bytes),
    ),
    Row(
        name="eight-reads",
        title="eight files read at once",
        counts="MiB",
        sizes=Sizes(512, 64, 32),
        quick=Sizes(64, 16, 0),
        work=Work(
            script="for n in 0 1 2 3 4 5 6 7; do cat $REMOTE/data$n >/dev/null & done;"
            " wait",
            prepare=_eight_files,
            over_ssh="for n in 0 1 2 3 4 5 6 7; do"
            " $SSH cat $SERVER/data$n >/dev/null & done; wait",
        ),
        value=Value(unit=Unit.RATE, of=moves_bytes),
    ),
    _random_reads(1),
    _random_reads(16),
    _small_writes("small-writes", "2 KiB writes at random places", "pass"),
    _small_writes(
        "small-pairs",
        "2 KiB written and read again, at random places",
        "os.pread(file, 2048, at)",
    ),
    Row(
        name="sqlite",
        title="SQLite: small transactions, a scan, an update",
        counts="transactions",
        sizes=Sizes(100, 10, 2),
        quick=Sizes(30, 3, 0),
        work=Work(
            script="sqlite3 $REMOTE/db <$LOCAL/work.sql",
            prepare=_statements,
            reset="rm -f $SERVER/db*",
            is_stored=lambda job: content.rows_in(job.server / "db") == job.size * 10,
        ),
    ),
)
