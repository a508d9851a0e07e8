"""Worlds to test in: who mounts, over what, with which options."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mount.accounts import Account, myself, ordinary_user
from tests.mount.harness import Place, own_place
from tests.mount.mounts import DEVICE, Lab, Mount, mounted, plain_sshd, running_lab
from tests.mount.waiting import wait_until

NEEDS_ROOT = "needs root: it makes the ordinary user itself otherwise"


@dataclass(frozen=True)
class World:
    """A mount, one target on it, and the same files as the device sees them."""

    place: Place
    mount: Mount
    target: bytes
    device: Path

    def on_mount(self, name: str | bytes) -> bytes:
        """Return the path of something at the top of the target."""
        return self.target + b"/" + os.fsencode(name)

    def on_device(self, name: str | bytes) -> bytes:
        """Return the path of the same thing on the device's own disk."""
        return os.fsencode(self.device) + b"/" + os.fsencode(name)

    def sees(self, name: str | bytes) -> bytes:
        """Return the path on the mount of what was just made on the device.

        That it was not there may count as true for the lifetime of a listing.
        """
        path = self.on_mount(name)
        wait_until(
            lambda: self.place.start(["test", "-e", path]).code == 0, "it is seen"
        )
        return path


@dataclass(frozen=True)
class Fresh:
    """A lab that nobody has logged in to, and its mount."""

    place: Place
    lab: Lab
    mount: Mount
    options: tuple[str, ...]


@pytest.fixture(scope="session")
def ordinary() -> Iterator[Account]:
    """Yield an account that is not root."""
    with ordinary_user() as account:
        yield account


@pytest.fixture(scope="session")
def root() -> Account:
    """Return root's account, if that is who we are."""
    if os.getuid() != 0:
        pytest.skip("not root: the tests as root are for root")
    return myself()


@pytest.fixture(params=["root", "ordinary"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Yield a folder of its own for one test, once as root, once not."""
    with own_place(request.getfixturevalue(request.param)) as made:
        yield made


@pytest.fixture(
    params=["root", "ordinary", "ordinary allow_other"],
    ids=lambda p: p.replace(" ", "-"),
)
def fresh(request: pytest.FixtureRequest) -> Iterator[Fresh]:
    """Yield a new lab and a new mount, as each account."""
    who, *options = request.param.split()
    with ExitStack() as stack:
        place = stack.enter_context(own_place(request.getfixturevalue(who)))
        lab = stack.enter_context(running_lab(place))
        mount = stack.enter_context(mounted(place, lab.config, *options))
        yield Fresh(place, lab, mount, tuple(options))


@pytest.fixture(
    scope="module",
    params=[
        "lab root",
        "lab ordinary",
        "lab ordinary allow_other",
        "openssh root",
        "openssh ordinary",
    ],
    ids=lambda param: param.replace(" ", "-"),
)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """Yield a mount over the lab or over plain OpenSSH, as each account."""
    over, who, *options = request.param.split()
    account: Account = request.getfixturevalue(who)
    with ExitStack() as stack:
        place = stack.enter_context(own_place(account))
        if over == "lab":
            lab = stack.enter_context(running_lab(place))
            config, name, device = lab.config, DEVICE, lab.device_folder("web01")
        else:
            config = stack.enter_context(plain_sshd(place))
            name = os.fsencode(account.name) + b"@web01"
            device = place.folder / "device"
        mount = stack.enter_context(mounted(place, config, *options))
        yield World(place, mount, mount.path(b"acme", name), device)
