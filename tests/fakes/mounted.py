"""A tree over fake devices, ready to be asked: what most vfs tests start from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pamfs.audit import Audit
from pamfs.config import (
    Ahead,
    Config,
    FilesConfig,
    LoginConfig,
    Owner,
    ProxyConfig,
    Symlinks,
    TargetConfig,
    TenantConfig,
)
from pamfs.model import Caller, Name, Target
from pamfs.naming.dialects import find_dialect
from pamfs.vfs.background import Background, Budget
from pamfs.vfs.names.attributes import MountOwner, Node
from pamfs.vfs.names.inodes import ROOT_INO
from pamfs.vfs.names.namespace import Namespace
from pamfs.vfs.tree import Tree
from tests.fakes.memory import MemoryFs
from tests.fakes.remote import FakeSource, FakeTree

WEB01 = Target("acme", "root", "web01")
DB01 = Target("acme", "root", "db01")
CALLER = Caller(pid=1, uid=1000, gid=1000)
ME = MountOwner(uid=1000, gid=1000, since_ns=0)


def tenant(  # noqa: PLR0913 - as many keys as tests vary
    *,
    owner: Owner = Owner.ME,
    symlinks: Symlinks = Symlinks.AS_IS,
    root: bytes = b"/",
    only_listed: bool = False,
    attr_timeout_s: float = 3.0,
    ahead: Ahead = Ahead.FILES,
) -> TenantConfig:
    """Return a tenant with two listed targets."""
    return TenantConfig(
        name="acme",
        proxy=ProxyConfig(host="127.0.0.1", port=22),
        login=LoginConfig(dialect=find_dialect("<credential>"), operator="alice"),
        files=FilesConfig(
            owner=owner,
            symlinks=symlinks,
            root=root,
            only_listed=only_listed,
            attr_timeout_s=attr_timeout_s,
            ahead=ahead,
            targets=(
                TargetConfig(Name(b"root@web01"), WEB01),
                TargetConfig(Name(b"root@db01"), DB01),
            ),
        ),
    )


@dataclass
class Mounted:
    """A tree, its source, and the file system of its one kind of device."""

    tree: Tree
    source: FakeSource
    fs: MemoryFs

    async def look(self, path: bytes) -> Node:
        """Look ``path`` up from the root, one component after the other."""
        first, *rest = path.strip(b"/").split(b"/")
        node = await self.tree.nodes.lookup(ROOT_INO, Name(first), CALLER)
        for part in rest:
            node = await self.tree.nodes.lookup(node.ino, Name(part), CALLER)
        return node


def mounted(
    config: TenantConfig | None = None,
    make: type[FakeTree] = FakeTree,
    budget: Budget | None = None,
    audit: Audit | None = None,
    me: MountOwner = ME,
) -> Mounted:
    """Return a tree whose every target shows one in-memory file system."""
    fs = MemoryFs()
    source = FakeSource(lambda _: make(fs))
    acme = config or tenant()
    namespace = Namespace(Config(path=Path("test.toml"), tenants={"acme": acme}))
    background = Background(budget=budget or Budget())
    tree = Tree(namespace, source, me, audit=audit, background=background)
    source.on_open = tree.session_opened
    return Mounted(tree, source, fs)
