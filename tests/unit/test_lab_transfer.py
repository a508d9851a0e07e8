"""The filter that denies downloads or uploads inside an SFTP stream."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pamfs.lab.route import TransferFilter
from pamfs.lab.wire import Open, Packet, Status, reply, status, string

READ = Open.READ
CREATE = Open.WRITE | Open.CREAT | Open.TRUNC


def opening(request: int, flags: Open) -> bytes:
    body = string(b"/etc/motd") + struct.pack(">II", flags, 0)
    return reply(Packet.OPEN, request, body)


def cut_up(data: bytes, sizes: list[int]) -> list[bytes]:
    """Return ``data`` in pieces of ``sizes``, in turn."""
    pieces: list[bytes] = []
    at = 0
    while at < len(data):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(data[at : at + size])
        at += size
    return pieces


WRITE = reply(Packet.WRITE, 7, string(b"h") + struct.pack(">Q", 0) + string(b"x" * 99))
INIT = struct.pack(">IBI", 5, Packet.INIT, 3)


@pytest.mark.parametrize(
    ("download", "upload", "flags", "passes"),
    [
        (True, False, READ, True),
        (True, False, CREATE, False),
        (True, False, READ | Open.WRITE, False),
        (True, False, READ | Open.TRUNC, False),
        (False, True, READ, False),
        (False, True, CREATE, True),
        (False, True, READ | Open.WRITE, False),
        (False, False, READ, False),
    ],
)
def test_an_open_passes_as_the_policy_says(
    download: bool, upload: bool, flags: Open, passes: bool
) -> None:
    filtered = TransferFilter(may_download=download, may_upload=upload)
    packet = opening(5, flags)
    assert filtered.upward(packet) == (packet if passes else b"")
    denied = status(5, Status.PERMISSION_DENIED)
    assert filtered.answers() == (b"" if passes else denied)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_only_the_denied_packet_is_missing_however_the_stream_is_cut(
    sizes: list[int],
) -> None:
    filtered = TransferFilter(may_download=True, may_upload=False)
    stream = INIT + opening(1, READ) + opening(2, CREATE) + WRITE + opening(3, READ)
    passed = b"".join(filtered.upward(piece) for piece in cut_up(stream, sizes))
    assert passed == INIT + opening(1, READ) + WRITE + opening(3, READ)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(0, 300))
def test_our_answer_is_never_inside_a_packet_of_the_device(
    sizes: list[int], when: int
) -> None:
    filtered = TransferFilter(may_download=True, may_upload=False)
    stream = b"".join(status(n, Status.OK) for n in range(10))
    got = b""
    for piece in cut_up(stream, sizes):
        if len(got) >= when:
            filtered.upward(opening(99, CREATE))
            got += filtered.answers()
            when = len(stream) + 1000
        got += filtered.downward(piece)
    got += filtered.answers()
    packets = []
    while got:
        size = 4 + int.from_bytes(got[:4], "big")
        packets.append(got[:size])
        got = got[size:]
    ours = status(99, Status.PERMISSION_DENIED)
    assert [p for p in packets if p != ours] == [
        status(n, Status.OK) for n in range(10)
    ]


def test_a_broken_open_is_left_to_the_device() -> None:
    filtered = TransferFilter(may_download=True, may_upload=False)
    broken = struct.pack(">IBI", 9, Packet.OPEN, 1) + struct.pack(">I", 500)
    assert filtered.upward(broken) == broken
