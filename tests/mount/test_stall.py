"""A target that falls silent, and its neighbours on the same mount.

The kernel has a dozen background requests in flight for the whole mount
(facts/peers.md#requests-in-flight), so that one silent target could hold them all.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest

from tests.limits import HANG_S
from tests.mount.harness import Place
from tests.mount.mounts import Lab, Mount, mounted, running_lab
from tests.mount.waiting import wait_until

SILENT = (b"globex", b"root@app01")
LOUD = (b"acme", b"root@web01")
READERS = 14  # more than the twelve
BYTES = 4 << 20
# The readers shall wait for data, and not for the size of the file first.
# And the end of the test shall not wait for a proxy that does not come back.
SETTINGS = """
attr_timeout = 600
reconnect = 1
"""
# It opens, says so, and reads to the end when it is told to.
READER = 'exec 3<"$0" && echo open && read -r go && exec dd bs=128k of=/dev/null <&3'


@dataclass
class Relay:
    """A TCP relay that can stop forwarding, as a cut line does: without a word."""

    listener: socket.socket
    onward: tuple[str, int]
    flows: threading.Event = field(default_factory=threading.Event)
    ends: list[socket.socket] = field(default_factory=list)

    @property
    def address(self) -> str:
        return "{}:{}".format(*self.listener.getsockname())

    def serve(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(self.onward)
                self.ends += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._forward, args=pair).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                self.flows.wait()
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Let every connection end, and take no further one."""
        for end in (self.listener, *self.ends):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self.flows.set()


@contextmanager
def relay_to(onward: str) -> Iterator[Relay]:
    """Run a relay in threads of its own."""
    to = urlsplit(f"//{onward}")
    assert to.hostname
    assert to.port
    before = set(threading.enumerate())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        relay = Relay(listener, (to.hostname, to.port))
        relay.flows.set()
        threading.Thread(target=relay.serve).start()
        try:
            yield relay
        finally:
            relay.cut()
            for thread in set(threading.enumerate()) - before:
                thread.join(HANG_S)
            for end in relay.ends:
                end.close()


@dataclass(frozen=True)
class Neighbours:
    """Two targets on one mount: ``SILENT`` is behind the relay, ``LOUD`` is not."""

    place: Place
    lab: Lab
    mount: Mount
    relay: Relay


@pytest.fixture
def neighbours(place: Place) -> Iterator[Neighbours]:
    with ExitStack() as stack:
        lab = stack.enter_context(running_lab(place))
        proxy = re.search(r'(?m)^proxy *= *"(.*)"$', lab.config.read_text())
        assert proxy
        relay = stack.enter_context(relay_to(proxy[1]))
        for device, count in (("app01", READERS), ("web01", 1)):
            for number in range(count):
                path = lab.device_folder(device) / f"big{number}"
                path.write_bytes(os.urandom(BYTES))
                os.chown(path, place.account.uid, place.account.gid)
        move_globex(lab, relay)
        mount = stack.enter_context(mounted(place, lab.config))
        yield Neighbours(place, lab, mount, relay)


def move_globex(lab: Lab, relay: Relay) -> None:
    """Have the second of the lab's tenants behind ``relay``."""
    acme, table, globex = lab.config.read_text().partition("[tenant.globex]")
    moved = re.sub(r"(?m)^proxy *=.*$", f'proxy = "{relay.address}"', globex)
    lab.config.write_text(f"{acme}{table}{SETTINGS}{moved}")
    known = lab.folder / "known_hosts"
    host, key = known.read_text().splitlines()[0].split(" ", 1)
    port = relay.address.rpartition(":")[2]
    moved_host = re.sub(r"\d+$", port, host)
    with known.open("a") as hosts:
        hosts.write(f"{moved_host} {key}\n")


@contextmanager
def readers(there: Neighbours) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Yield programs that have a large file of the silent target open, each its own."""
    running = [
        there.place.open(["sh", "-c", READER, there.mount.path(*SILENT, name)])
        for name in (f"big{number}".encode() for number in range(READERS))
    ]
    try:
        for reader in running:
            assert reader.stdout
            assert reader.stdout.readline() == b"open\n"
        yield running
    finally:
        there.relay.cut()
        for reader in running:
            reader.kill()
            reader.communicate(timeout=HANG_S)


def start_all(running: list[subprocess.Popen[bytes]]) -> None:
    for reader in running:
        assert reader.stdin
        reader.stdin.write(b"\n")
        reader.stdin.flush()


def test_a_target_that_falls_silent_holds_up_no_other(neighbours: Neighbours) -> None:
    place, mount = neighbours.place, neighbours.mount
    for target in (LOUD, SILENT):
        assert place.run(["ls", mount.path(*target)])
    with readers(neighbours) as running:
        neighbours.relay.flows.clear()
        start_all(running)
        # All but the spared ones hear of it ...
        cold = mount.path(*LOUD, b"big0")
        there_too = neighbours.lab.device_folder("web01") / "big0"
        place.run(["cmp", cold, there_too], timeout_s=HANG_S)
        # ... and some of them still wait when the other target has answered.
        assert any(reader.poll() is None for reader in running)
        wait_until(lambda: any(r.poll() is not None for r in running), "one ends")
        neighbours.relay.cut()
        said = [reader.communicate(timeout=HANG_S)[0] for reader in running]
        assert all(reader.returncode != 0 for reader in running), said
    assert any(b"Connection timed out" in text for text in said), said
    # None of it stays: the target is there again, or says why not.
    assert place.run(["cat", mount.path(*LOUD, b"etc/motd")])
