"""Coverage-guided fuzzing of all targets, one after the other: ``make fuzz``.

    python -m tests.fuzz.run --minutes 10 [NAME...]    each gets its share of the time
    python -m tests.fuzz.run --replay                  run every known input once

Inputs that reach new code are kept in ``build/fuzz/NAME``, so that the next run goes
on from there; one that fails is written to ``build/fuzz/crashes`` and is to be checked
in below ``tests/fuzz/corpus``, with its mend.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

BUILD: Final = Path("build/fuzz")
CRASHES: Final = BUILD / "crashes"
MODULES: Final = ("tests.fuzz.texts", "tests.fuzz.replies", "tests.fuzz.packets")
INSTRUMENTED: Final = ("pamfs", "pyotp", "tests.fuzz", "tomllib")
# One input: more is a hang, or an input that makes pamfs eat memory.
TIMEOUT_S: Final = 20
MOST_MIB: Final = 1024


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--one", metavar="SECONDS", type=int)
    parser.add_argument("--replay", action="store_true")
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    if args.one is not None:
        fuzz_one(args.names[0], args.one)
        return 0
    names = chosen(args.names)
    if args.replay:
        replay(names)
        return 0
    return fuzz_all(names, args.minutes)


def chosen(wanted: Sequence[str]) -> Sequence[str]:
    """Return the targets whose names have one of the words ``wanted``; or all."""
    load()
    from tests.fuzz.target import TARGETS

    names = [
        name for name in TARGETS if not wanted or any(word in name for word in wanted)
    ]
    if not names:
        sys.exit(f"no target is called so; there are {', '.join(TARGETS)}")
    return names


def load() -> None:
    """Have every target registered."""
    for name in MODULES:
        importlib.import_module(name)


def fuzz_all(names: Sequence[str], minutes: float) -> int:
    """Fuzz each of ``names`` in a process of its own; return 1 if one failed."""
    CRASHES.mkdir(parents=True, exist_ok=True)
    seconds = max(1, int(minutes * 60 / len(names)))
    failed = []
    for name in names:
        print(f"=== {name}: {seconds} s", flush=True)
        me = [sys.executable, "-m", "tests.fuzz.run", "--one", str(seconds), name]
        done = subprocess.run(me, check=False)
        if done.returncode != 0:
            failed.append(name)
    print(f"=== failed: {', '.join(failed) or 'none'}")
    return int(bool(failed))


def fuzz_one(name: str, seconds: int) -> None:
    """Fuzz one target in this process; libFuzzer ends it."""
    import atheris

    importlib.import_module("asyncssh")  # first: to instrument it takes half a minute
    with atheris.instrument_imports(include=list(INSTRUMENTED)):
        load()
    from tests.fuzz.target import TARGETS

    target = TARGETS[name]
    grown = BUILD / name
    grown.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={seconds}",
        f"-timeout={TIMEOUT_S}",
        f"-rss_limit_mb={MOST_MIB}",
        f"-max_len={target.most_bytes}",
        f"-artifact_prefix={CRASHES}/{name}-",
        "-print_final_stats=1",
        "-verbosity=0" if "PAMFS_FUZZ_QUIET" in os.environ else "-verbosity=1",
    ]
    atheris.Setup([sys.argv[0], *options, str(grown), str(target.corpus)], target.check)
    atheris.Fuzz()


def replay(names: Sequence[str]) -> None:
    """Run every input that is known once: for the coverage that was reached."""
    from tests.fuzz.target import TARGETS

    for name in names:
        folders = (TARGETS[name].corpus, BUILD / name)
        paths = [path for folder in folders for path in sorted(folder.glob("*"))]
        for path in paths:
            TARGETS[name].check(path.read_bytes())
        print(f"{name}: {len(paths)} inputs")


if __name__ == "__main__":
    sys.exit(main())
