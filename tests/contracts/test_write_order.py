"""Writes of one handle leave in the order in which programs made them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from pamfs.config import Config
from pamfs.model import Caller, Name, RemotePath, Target
from pamfs.transport.base import RemoteTree
from pamfs.transport.sftp.tree import SftpTree
from pamfs.vfs.background import Background, Budget
from pamfs.vfs.names.inodes import ROOT_INO
from pamfs.vfs.names.namespace import Namespace
from pamfs.vfs.tree import Tree
from tests.contracts.implementations import Sftp, sftp_over_asyncssh
from tests.contracts.long_files import CONTENT, content_at
from tests.fakes.mounted import CALLER, ME, tenant
from tests.fakes.remote import FakeSource
from tests.fakes.servers import IgnoresOffsets, RecordsWrites, TakesWritesInOrder
from tests.limits import HANG_S

BLOCK = 128 << 10


class OneTree(FakeSource):
    """A pool whose one session is a real one."""

    def __init__(self, tree: RemoteTree) -> None:
        super().__init__()
        self._real = tree

    @asynccontextmanager
    async def lend(
        self, target: Target, caller: Caller, *, is_reconnect: bool = False
    ) -> AsyncIterator[RemoteTree]:
        del target, caller, is_reconnect
        await trio.lowlevel.checkpoint()
        yield self._real

    def ready(self, target: Target) -> RemoteTree | None:
        del target
        return self._real


async def uploaded(device: Sftp, folder: RemotePath) -> None:
    """Write a file through the tree as the kernel does, one block after the other."""
    config = tenant(root=bytes(folder))
    namespace = Namespace(Config(path=Path("test.toml"), tenants={"acme": config}))
    async with trio.open_nursery() as nursery:
        tree = device.new_tree(nursery)
        assert isinstance(tree, SftpTree)
        # What the draft lets a client expect; asyncssh takes much more.
        tree._capabilities = replace(tree.capabilities, max_write_bytes=32768)
        source = OneTree(tree)
        background = Background(nursery.start_soon, Budget())
        files = Tree(namespace, source, ME, background=background)
        node = await files.nodes.lookup(ROOT_INO, Name(b"acme"), CALLER)
        home = await files.nodes.lookup(node.ino, Name(b"root@web01"), CALLER)
        opened, _ = await files.files.create(
            (home.ino, Name(b"f")), os.O_WRONLY, 0o600, CALLER
        )
        for at in range(0, len(CONTENT), BLOCK):
            await files.files.write(opened.fh, at, CONTENT[at : at + BLOCK])
        await files.files.flush(opened.fh)
        await files.files.release(opened.fh)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("server", [RecordsWrites, TakesWritesInOrder, IgnoresOffsets])
async def test_writes_leave_in_their_order(
    tmp_path: Path, server: type[RecordsWrites], monkeypatch: pytest.MonkeyPatch
) -> None:
    offsets: list[int] = []
    monkeypatch.setattr(server, "offsets", offsets, raising=False)
    with sftp_over_asyncssh(tmp_path, server) as device, trio.fail_after(HANG_S):
        folder = device.new_folder("d")
        await uploaded(device, folder)
        assert offsets == sorted(offsets)
        assert len(offsets) > 3
        assert content_at(RemotePath(folder + b"/f")) == CONTENT
