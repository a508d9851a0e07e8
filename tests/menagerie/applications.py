"""The programs that people use, on a mount over one server, and what became of each.

Law: a program whose every step ended with 0 has stored what it was given. If the
bytes differ all the same, the outcome is ``WRONG``, and no table may expect that.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from bench.relay import running_relay
from tests.limits import PROGRAM_S
from tests.menagerie.clients import write_config
from tests.menagerie.servers import Kind, Server, running_server
from tests.mount.accounts import myself
from tests.mount.harness import Command, Place, TookTooLongError, own_place
from tests.mount.mounts import foreground_mount
from tests.mount.waiting import wait_until

LONG_BYTES: Final = 100 << 20
MTIME_S: Final = 1_700_000_000
# rclone with a cache stores after the close; what is wrong then stays wrong.
SETTLE_S: Final = 10


class State(StrEnum):
    """What a user can say afterwards."""

    WORKS = "works"
    REFUSED = "refused"
    WRONG = "wrong"


@dataclass(frozen=True)
class Outcome:
    """The state of one application on one server; the note says how it was refused."""

    state: State
    note: str = ""


class RefusedError(Exception):
    """A program ended with an error: nothing was claimed."""


class WrongError(Exception):
    """Every program ended with 0, and what is stored is something else."""


@dataclass(frozen=True)
class Site:
    """A mount over a server, and the same files on the server's own disk."""

    place: Place
    target: bytes
    server: Server

    def there(self, name: str) -> bytes:
        """Return the path of ``name`` on the mount."""
        return self.target + b"/" + os.fsencode(name)

    def stored(self, name: str) -> Path:
        """Return the path of ``name`` on the server's disk."""
        return self.server.files / name

    def run(self, command: Command, within_s: float = PROGRAM_S) -> bytes:
        """Run a program, which may be refused; return what it printed."""
        try:
            done = self.place.start(command, timeout_s=within_s)
        except TookTooLongError:
            raise RefusedError(f"{_name_of(command)}: no end in time") from None
        if done.code:
            raise RefusedError(f"{_name_of(command)}: {_reason(done.err)}")
        return done.out

    def sh(self, script: str, *arguments: str | bytes | Path) -> bytes:
        """Run a line of shell; ``$0`` and on are ``arguments``."""
        return self.run(["sh", "-ec", script, *arguments])


def _name_of(command: Command) -> str:
    words = [w.decode() if isinstance(w, bytes) else str(w) for w in command]
    if words[:2] == ["sh", "-ec"]:
        return words[2].split()[0]
    return words[0]


def _reason(err: bytes) -> str:
    """Return the end of the line that names an error, without paths."""
    lines = err.decode(errors="replace").splitlines() or ["no message"]
    named = [line for line in lines if re.search(r"[Ee]rror|denied|not |No ", line)]
    line = re.sub(r"\S*/\S*", "...", (named or lines)[0])
    return line.rpartition(": ")[2][:60].strip()


def expect(what: str, *, is_so: Callable[[], bool]) -> None:
    """Hold that ``is_so``; a server that stores after the close gets time for it."""
    try:
        wait_until(is_so, what, SETTLE_S)
    except AssertionError:
        raise WrongError(what) from None


def same(path: Path, content: bytes) -> Callable[[], bool]:
    return lambda: path.exists() and path.read_bytes() == content


# -- a tree ----------------------------------------------------------------


def make_source(folder: Path) -> None:
    """Make a tree with plain names: sizes, modes, old times, folders."""
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "empty").mkdir()
    for n, size in enumerate((0, 1, 4096, 32769, 131073, 700_001)):
        path = folder / ("a" if n % 2 else "a/b") / f"size-{size}"
        path.write_bytes(random.Random(size).randbytes(size))
    for mode in (0o600, 0o644, 0o755):
        path = folder / f"mode-{mode:o}"
        path.write_bytes(b"content")
        path.chmod(mode)
    for path in sorted(folder.rglob("*"), reverse=True):
        os.utime(path, (MTIME_S, MTIME_S))


def contents(folder: Path) -> dict[str, bytes | None]:
    """Return relative path to content, None for a folder."""
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
        for path in folder.rglob("*")
    }


def attributes(folder: Path) -> dict[str, tuple[int, int]]:
    """Return relative path to mode and whole time, of files."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mode, int(path.stat().st_mtime))
        for path in folder.rglob("*")
        if path.is_file()
    }


def same_tree(site: Site, source: Path, name: str) -> None:
    """Hold that the tree arrived, and that the mount shows it."""
    wanted = contents(source)
    expect(
        f"{name}: content differs", is_so=lambda: contents(site.stored(name)) == wanted
    )
    back = site.place.folder / f"{name}-back"
    site.run(["cp", "-r", site.there(name), back])
    if contents(back) != wanted:
        raise WrongError(f"{name}: read back otherwise")


def lost_attributes(site: Site, source: Path, name: str) -> str:
    """Return which attributes of files are not as in the source, or nothing."""
    pairs = [
        (wanted, attributes(site.stored(name)).get(path, (0, 0)))
        for path, wanted in attributes(source).items()
    ]
    lost = [
        what
        for n, what in enumerate(("modes", "times"))
        if any(wanted[n] != found[n] for wanted, found in pairs)
    ]
    return f"without {' and '.join(lost)}" if lost else ""


# -- the applications ------------------------------------------------------


def cp_a(site: Site) -> str:
    source = site.place.folder / "source"
    site.run(["cp", "-a", source, site.there("cp")])
    same_tree(site, source, "cp")
    return lost_attributes(site, source, "cp")


def rsync_a(site: Site) -> str:
    source = site.place.folder / "source"
    site.run(["rsync", "-a", f"{source}/", site.there("rsync") + b"/"])
    same_tree(site, source, "rsync")
    return lost_attributes(site, source, "rsync")


def rsync_inplace(site: Site) -> str:
    old, new = os.urandom(300_000), os.urandom(70_000)
    (site.place.folder / "inplace").write_bytes(old)
    command: Command = [
        "rsync",
        "--inplace",
        "--ignore-times",
        "inplace",
        site.there("inplace"),
    ]
    site.run(command)
    expect("first", is_so=same(site.stored("inplace"), old))
    (site.place.folder / "inplace").write_bytes(new)
    site.run(command)
    expect("the old tail stays", is_so=same(site.stored("inplace"), new))
    return ""


def tar_x(site: Site) -> str:
    source = site.place.folder / "source"
    site.run(["tar", "-cf", "tree.tar", "-C", source, "."])
    site.run(["mkdir", site.there("tar")])
    site.run(["tar", "-xf", "tree.tar", "-C", site.there("tar")])
    same_tree(site, source, "tar")
    site.run(["tar", "-cf", "back.tar", "-C", site.there("tar"), "."])
    return lost_attributes(site, source, "tar")


def git(site: Site) -> str:
    where = site.there("git")
    site.run(["git", "init", "-q", "-b", "main", where])
    site.sh('seq 3000 >"$0"/numbers; mkdir "$0"/d; echo one >"$0"/d/one', where)
    for step in (["add", "."], ["commit", "-qm", "1"]):
        site.run(["git", "-C", where, *step])
    site.sh('echo more >>"$0"/numbers', where)
    for step in (["commit", "-qam", "2"], ["gc", "-q"], ["fsck", "--full", "--strict"]):
        site.run(["git", "-C", where, *step])
    site.run(["git", "clone", "-q", where, "clone"])
    wanted = b"".join(b"%d\n" % n for n in range(1, 3001)) + b"more\n"
    expect("clone", is_so=same(site.place.folder / "clone" / "numbers", wanted))
    return ""


_SQL = (
    "create table t(id integer primary key, body text);"
    "with recursive n(i) as (select 1 union all select i+1 from n where i<500)"
    " insert into t select i, hex(randomblob(50)) from n;"
    "update t set body='changed' where id % 7 = 0; delete from t where id % 11 = 0;"
)
_ASK = "pragma integrity_check; select count(*), sum(body='changed') from t;"


def sqlite(site: Site) -> str:
    site.run(["sqlite3", site.there("data.db"), _SQL])
    if site.run(["sqlite3", site.there("data.db"), _ASK]) != b"ok\n455|65\n":
        raise WrongError("the database is not whole")
    copy = site.stored("data.db")
    expect(
        "stored",
        is_so=lambda: site.place.start(["sqlite3", copy, _ASK]).out == b"ok\n455|65\n",
    )
    return ""


def truncate(site: Site) -> str:
    content = bytes(range(1, 251)) * 20
    (site.place.folder / "cut").write_bytes(content)
    site.run(["cp", "cut", site.there("cut")])
    site.run(["truncate", "-s", "1234", site.there("cut")])
    expect("cut", is_so=same(site.stored("cut"), content[:1234]))
    return ""


def append(site: Site) -> str:
    site.sh(
        'printf one >"$0"; printf two >>"$0"; printf three >>"$0"', site.there("log")
    )
    expect("appended", is_so=same(site.stored("log"), b"onetwothree"))
    return ""


def overwrite(site: Site) -> str:
    site.sh('printf 0123456789 >"$0"', site.there("disk"))
    script = 'printf ab | dd of="$0" bs=1 seek=4 conv=notrunc status=none'
    site.sh(script, site.there("disk"))
    expect("overwritten", is_so=same(site.stored("disk"), b"0123ab6789"))
    return ""


def rename_over(site: Site) -> str:
    site.sh(
        'printf old >"$0"; printf new >"$0.tmp"; mv "$0.tmp" "$0"', site.there("name")
    )
    expect("replaced", is_so=same(site.stored("name"), b"new"))
    return ""


def symlinks(site: Site) -> str:
    where = site.there("links")
    site.sh('mkdir -p "$0"/d; printf x >"$0"/d/f; ln -s d/f "$0"/link', where)
    if site.sh('cat "$0"/link', where) != b"x":
        raise WrongError("the link leads elsewhere")
    said = site.sh('readlink "$0"/link', where)
    return "" if said == b"d/f\n" else "a relative link becomes an absolute one"


def odd_names(site: Site) -> str:
    names = [
        "gr\u00fc\u00dfe-\u65e5\u672c\u8a9e",
        "two\nlines",
        "[b] {c} 100%",
        " s ",
        "-d",
    ]
    site.run(["mkdir", site.there("names")])
    for name in names:
        site.sh('printf x >"$0"', site.there("names/" + name))
    found = site.run(["ls", "-1N", "--zero", site.there("names")])
    if set(found.decode().split("\0")) - {""} != set(names):
        raise WrongError("other names are listed")
    return ""


def remove(site: Site) -> str:
    site.sh('mkdir -p "$0"/a/b; : >"$0"/a/b/f; rm -r "$0"', site.there("gone"))
    expect("removed", is_so=lambda: not site.stored("gone").exists())
    return ""


Application = Callable[[Site], str]
APPLICATIONS: Final[dict[str, Application]] = {
    "cp -a": cp_a,
    "rsync -a": rsync_a,
    "rsync --inplace": rsync_inplace,
    "tar": tar_x,
    "git": git,
    "sqlite": sqlite,
    "truncate": truncate,
    "append": append,
    "overwrite": overwrite,
    "mv over a file": rename_over,
    "symlinks": symlinks,
    "odd names": odd_names,
    "rm -r": remove,
}


def long_in(site: Site) -> str:
    """Copy 100 MB to the server."""
    source = site.place.folder / "long"
    if not source.exists():
        source.write_bytes(random.Random(5).randbytes(LONG_BYTES))
    content = source.read_bytes()
    site.run(["cp", source, site.there("long")], PROGRAM_S)
    expect("100 MB in", is_so=same(site.stored("long"), content))
    return ""


def long_out(site: Site) -> str:
    """Copy 100 MB from the server, made there by another way."""
    source = site.place.folder / "long"
    if not source.exists():
        source.write_bytes(random.Random(5).randbytes(LONG_BYTES))
    site.run(["cp", source, site.stored("long-out")])
    there = site.there("long-out")
    wait_until(lambda: site.place.start(["test", "-e", there]).code == 0, "it is seen")
    site.run(["cp", there, "got"], PROGRAM_S)
    if (site.place.folder / "got").read_bytes() != source.read_bytes():
        raise WrongError("100 MB out")
    return ""


LONG: Final[dict[str, Application]] = {"100 MB in": long_in, "100 MB out": long_out}


def outcome(application: Application, site: Site) -> Outcome:
    """Run ``application`` to its outcome."""
    try:
        return Outcome(State.WORKS, application(site))
    except RefusedError as exc:
        return Outcome(State.REFUSED, str(exc))
    except WrongError as exc:
        return Outcome(State.WRONG, str(exc))


@contextmanager
def mounted_site(kind: Kind, *, rtt_ms: float = 0, more: str = "") -> Iterator[Site]:
    """Mount ``kind``, started for it, through a relay if ``rtt_ms`` is not 0."""
    with own_place(myself()) as place:
        for name in ("device", "source", "config"):
            (place.folder / name).mkdir()
        make_source(place.folder / "source")
        with (
            running_server(kind, place.folder / "device") as server,
            _far(server.port, rtt_ms) as port,
        ):
            config = write_config(server, place.folder / "config", port=port, more=more)
            with foreground_mount(place, config) as (mount, _):
                target = mount.path(b"acme", os.fsencode(server.user) + b"@web01")
                yield Site(place, target, server)


@contextmanager
def _far(port: int, rtt_ms: float) -> Iterator[int]:
    if rtt_ms:
        with running_relay(port, rtt_ms) as far:
            yield far
    else:
        yield port


def outcomes(kind: Kind, wanted: dict[str, Application]) -> dict[str, Outcome]:
    """Run every application of ``wanted`` on one mount over ``kind``."""
    with mounted_site(kind) as site:
        return {name: outcome(app, site) for name, app in wanted.items()}
