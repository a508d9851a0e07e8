"""Rows about programs that people run on such mounts: git, rsync, restic."""

from __future__ import annotations

from typing import Final

from bench import content
from bench.rows import Job, Row, Sizes, Work

SOURCES: Final = Sizes(1500, 100, 100)
QUICK_SOURCES: Final = Sizes(300, 50, 0)
# A mount made anew has other inode numbers, and SFTP has neither those of the
# server, nor ctimes, nor fractions of a second.
_GIT: Final = "git -c core.checkStat=minimal -c core.trustctime=false"
_RESTIC: Final = "restic --no-cache -q -r $LOCAL/repo"
_BACKUP: Final = f"{_RESTIC} backup --ignore-inode --ignore-ctime"


def _clone(job: Job) -> None:
    content.source_tree(job.server / "clone", job.size)
    name = "-c user.name=bench -c user.email=bench@example.com"
    content.script(
        job,
        f"cd $SERVER/clone; git -c init.defaultBranch=main init -q; git add .;"
        f" git {name} commit -q -m all; {_GIT} status",
    )


def _to_copy(job: Job) -> None:
    content.small_files(job.local / "src", job.size)


def _copied(job: Job) -> None:
    _to_copy(job)
    content.script(job, "mkdir $SERVER/out; cp -a $LOCAL/src $SERVER/out/src")


def _to_back_up(job: Job) -> None:
    content.small_files(job.server / "src", job.size)
    content.script(job, "restic -q -r $LOCAL/empty init")


def _backed_up(job: Job) -> None:
    content.small_files(job.server / "src", job.size)
    content.script(job, "restic -q -r $LOCAL/repo init")
    content.script(job, f"cd $SERVER/src; {_BACKUP} .")


def _came_there(job: Job) -> bool:
    return content.same_files(job.local / "src", job.server / "out" / "src")


ROWS: Final = (
    Row(
        name="git-status",
        title="git status on a clone",
        counts="files",
        sizes=SOURCES,
        quick=QUICK_SOURCES,
        work=Work(
            script=f'cd $REMOTE/clone && test -z "$({_GIT} status --porcelain)"',
            prepare=_clone,
            over_ssh=f"$SSH 'cd '$SERVER'/clone && {_GIT} status --porcelain'",
        ),
    ),
    Row(
        name="rsync-first",
        title="rsync -a into the mount, first run, until stored",
        counts="files",
        sizes=Sizes(1000, 100, 0),
        quick=Sizes(200, 12, 0),
        work=Work(
            script="rsync -a $LOCAL/src $REMOTE/out",
            prepare=_to_copy,
            over_ssh='rsync -a -e "${SSH% *}" $LOCAL/src ${SSH##* }:$SERVER/out',
            reset="rm -rf $SERVER/out; mkdir $SERVER/out",
            is_stored=_came_there,
        ),
    ),
    Row(
        name="rsync-again",
        title="rsync -a into the mount that moves nothing",
        counts="files",
        sizes=Sizes(2000, 400, 200),
        quick=Sizes(500, 100, 50),
        work=Work(
            script='changed=$(rsync -ai $LOCAL/src $REMOTE/out) && test -z "$changed"',
            prepare=_copied,
            over_ssh='rsync -a -e "${SSH% *}" $LOCAL/src ${SSH##* }:$SERVER/out',
        ),
    ),
    Row(
        name="restic-first",
        title="restic backup, first run",
        counts="files",
        sizes=Sizes(1000, 100, 0),
        quick=Sizes(300, 50, 0),
        work=Work(
            script=f"cd $REMOTE/src && {_BACKUP} .",
            prepare=_to_back_up,
            reset="rm -rf $LOCAL/repo; cp -a $LOCAL/empty $LOCAL/repo",
        ),
    ),
    Row(
        name="restic-again",
        title="restic backup, second run",
        counts="files",
        sizes=Sizes(1000, 100, 100),
        quick=Sizes(300, 50, 0),
        work=Work(
            # Without a path that stays the same restic must be told what came before.
            script=f"parent=$({_RESTIC} snapshots --json"
            ' | sed \'s/.*"id":"//;s/".*//\')'
            f" && cd $REMOTE/src && {_BACKUP} --parent $parent --json . | tail -n 1"
            ' | grep -q \'"files_changed":0,"files_unmodified":\'$N',
            prepare=_backed_up,
            reset="test -e $LOCAL/kept || cp -a $LOCAL/repo $LOCAL/kept;"
            " rm -rf $LOCAL/repo; cp -a $LOCAL/kept $LOCAL/repo",
        ),
    ),
)
