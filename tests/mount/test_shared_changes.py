"""Two clients of one folder: the mount, and somebody on the device itself.

What one has closed is what the other opens, at once. Names and attributes agree
when the lifetime is over. In one round the two keep to different names, as two
people do; the seed of a run that fails is printed and can be given in ``PAMFS_SEED``.
"""

from __future__ import annotations

import os
import random

import pytest

from tests.limits import PROGRAM_S
from tests.mount.accounts import Account
from tests.mount.harness import Command, own_place
from tests.mount.mounts import mounted, plain_sshd

SHARED = r"""
import os, random, shutil, stat, sys, time

mount, device = map(os.fsencode, sys.argv[1:3])
seed, rounds, lifetime_s = int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])
chance = random.Random(seed)
names = [b"a", b"b", b"c", b"dir/d", b"dir/e", b"dir/f", b"new/g"]

def content():
    return chance.randbytes(chance.choice([0, 1, 10, 10, 4096, 200_000, 1_500_000]))

def there(base, name):
    return os.path.lexists(base + b"/" + name)

def overwrite(base, name):
    os.makedirs(os.path.dirname(base + b"/" + name), exist_ok=True)
    with open(base + b"/" + name, "wb") as file:
        data = content()
        for start in range(0, len(data), 100_000):
            file.write(data[start : start + 100_000])

def same_size(base, name):
    with open(base + b"/" + name, "r+b") as file:
        file.write(chance.randbytes(len(file.read())))
        file.seek(0)
        file.write(b"!")

def append(base, name):
    with open(base + b"/" + name, "ab", buffering=0) as file:
        for _ in range(chance.randrange(4)):
            file.write(chance.randbytes(100))

def patch(base, name):
    with open(base + b"/" + name, "r+b", buffering=0) as file:
        for _ in range(3):
            file.seek(chance.randrange(300_000))
            file.write(chance.randbytes(5000))
            file.seek(chance.randrange(1000))
            file.read(20_000)

def cut(base, name):
    os.truncate(base + b"/" + name, chance.randrange(5000))

def replace(base, name):
    overwrite(base, name + b".tmp")
    os.rename(base + b"/" + name + b".tmp", base + b"/" + name)

def remove(base, name):
    os.unlink(base + b"/" + name)

def mode(base, name):
    os.chmod(base + b"/" + name, chance.choice([0o600, 0o640, 0o644, 0o755]))

def times(base, name):
    os.utime(base + b"/" + name, (chance.randrange(10**9), chance.randrange(10**9)))

def read(base, name):
    with open(base + b"/" + name, "rb") as file:
        return file.read()

changes = [overwrite, overwrite, same_size, append, patch, cut, replace, remove]
changes += [mode, times]

def change(base, name):
    how = chance.choice(changes) if there(device, name) else overwrite
    log.append((base is mount, how.__name__, name))
    how(base, name)

def check_content(name):
    seen, true = read(mount, name), read(device, name)
    assert seen == true, (name, len(seen), len(true))

def facts(base):
    found = {}
    for folder, _, files in os.walk(base):
        where = os.path.relpath(folder, base)
        found[where] = "a folder"
        for name in files:
            info = os.lstat(os.path.join(folder, name))
            mode = stat.S_IMODE(info.st_mode)
            fact = (mode, info.st_size, int(info.st_mtime))
            found[os.path.join(where, name)] = fact
    return found

log = []
try:
    for _ in range(rounds):
        del log[:]
        mine = set(chance.sample(names, 4))
        known = [name for name in names if there(device, name) and name not in mine]
        for _ in range(10):
            name = chance.choice(names)
            if name in mine:
                change(mount, name)
                if there(device, name):
                    check_content(name)
            else:
                change(device, name)
                if name in known and there(device, name):
                    check_content(name)
                elif name in known:
                    known.remove(name)
        if chance.random() < 0.2:
            shutil.rmtree(chance.choice([mount, device]) + b"/new", ignore_errors=True)
        time.sleep(lifetime_s)
        assert facts(mount) == facts(device)
        for name in names:
            if there(device, name):
                check_content(name)
except BaseException:
    print("after", log, file=sys.stderr)
    raise
"""


@pytest.fixture(params=["root", "ordinary"])
def account(request: pytest.FixtureRequest) -> Account:
    """Return who mounts."""
    found: Account = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize(("timeout", "rounds"), [("0s", 25), ("0.5s", 15), ("3s", 3)])
def test_two_clients_see_what_the_other_has_closed(
    account: Account, timeout: str, rounds: int
) -> None:
    seed = int(os.environ.get("PAMFS_SEED") or random.randrange(1 << 30))
    lifetime_s = float(timeout.removesuffix("s"))
    # Whole seconds are what the wire carries; the kernel counts in ticks.
    wait_s = lifetime_s + 0.3 if lifetime_s else 0.0
    with own_place(account) as place, plain_sshd(place) as config:
        text = config.read_text()
        row = f'attr_timeout = "{timeout}"'
        config.write_text(text.replace("[tenant.acme]", f"[tenant.acme]\n{row}"))
        with mounted(place, config) as mount:
            target = mount.path(b"acme", os.fsencode(account.name) + b"@web01")
            device = os.fsencode(place.folder / "device")
            numbers = [str(seed), str(rounds), str(wait_s)]
            command: Command = [account.python, "-c", SHARED, target, device, *numbers]
            done = place.start(command, timeout_s=PROGRAM_S)
            assert done.code == 0, f"PAMFS_SEED={seed}: {done.text}"
