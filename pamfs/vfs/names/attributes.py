"""The attributes that the kernel gets: owner, mode, link count and TTL.

Law: the folders of the mount itself are shown without asking a device. The kernel
never gets a TTL that ends later than the TTL of what was seen.
"""

from __future__ import annotations

import errno
import stat
from dataclasses import asdict, dataclass, replace
from typing import Final

import trio

from pamfs.config import Owner
from pamfs.errors import RemoteError
from pamfs.model import AttrChange, Attrs, Caller, Ino, Target
from pamfs.vfs.names.inodes import Inode
from pamfs.vfs.names.namespace import Namespace

_TENANT_MODE: Final = stat.S_IFDIR | 0o555
_TARGET_MODE: Final = stat.S_IFDIR | 0o755
_SECOND_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Node:
    """An inode with the attributes to show for it, and for how long."""

    ino: Ino
    attrs: Attrs
    timeout_s: float


@dataclass(frozen=True, slots=True)
class MountOwner:
    """The owner of the mount, and since when the mount exists.

    ``checks_modes``: the kernel compares callers with owner and mode
    (``default_permissions``).
    """

    uid: int
    gid: int
    since_ns: int
    checks_modes: bool = False


class AttributeView:
    """Makes the attributes that the kernel gets."""

    def __init__(self, namespace: Namespace, me: MountOwner) -> None:
        self._namespace = namespace
        self._me = me

    def show(self, inode: Inode, timeout_s: float | None = None) -> Node:
        """Return the node with its attributes as the kernel is to see them.

        Without ``timeout_s`` (seconds) the TTL is what remains of the TTL of the
        attributes.
        """
        if inode.target is None:
            return Node(inode.ino, self._synthetic(_TENANT_MODE), 1.0)
        view = self._namespace.view(inode.target)
        if inode.seen is None:
            if not inode.is_dir:  # the kernel gives up an inode whose type changes
                raise RemoteError(errno.ESTALE, "getattr", "nothing is known of it")
            return Node(inode.ino, self._synthetic(_TARGET_MODE), view.attr_timeout_s)
        if timeout_s is None:
            timeout_s = inode.seen_at + view.attr_timeout_s - trio.current_time()
        attrs, owner = inode.seen, self._me
        nlink = _links(inode, attrs)
        if view.owner is Owner.ME:
            attrs = attrs.owned(owner.uid, owner.gid, nlink)
        elif attrs.nlink != nlink:
            attrs = attrs.owned(attrs.uid, attrs.gid, nlink)
        return Node(inode.ino, attrs, 0.0 if inode.is_stale else max(0.0, timeout_s))

    def allows(self, caller: Caller, target: Target, attrs: Attrs, mask: int) -> bool:
        """Whether the kernel lets ``caller`` do ``mask`` (access(2)) with a file.

        The supplementary groups of a caller are not known. So a caller that is not
        the owner, and has another primary group, needs the bits of both the group
        and the others.
        """
        if not self._me.checks_modes or caller.uid == 0:
            return True
        attrs = self._owned(target, attrs)
        if caller.uid == attrs.uid:
            granted = attrs.mode >> 6
        elif caller.gid == attrs.gid:
            granted = attrs.mode >> 3
        else:
            granted = attrs.mode >> 3 & attrs.mode
        return granted & mask == mask

    def allows_on(self, caller: Caller, inode: Inode, mask: int) -> bool:
        """Whether the kernel lets ``caller`` do ``mask`` with what was seen last."""
        if inode.target is None or inode.seen is None:
            return True  # a folder of the mount itself: mode 0555, or 0755 for a target
        return self.allows(caller, inode.target, inode.seen, mask)

    def ownership_change(
        self, caller: Caller, parent: Inode, made: Attrs
    ) -> AttrChange | None:
        """Return the change that gives ``caller`` what it made in ``parent``.

        None for the mount's owner and for root: their files keep the owner that the
        device sets, which saves a request. The group of a folder with the set-gid bit
        is inherited (open(2)).
        """
        if not self._me.checks_modes or caller.uid in {0, self._me.uid}:
            return None
        if (
            parent.target is None
            or self._namespace.view(parent.target).owner is Owner.ME
        ):
            return None
        inherits = parent.seen is not None and parent.seen.mode & stat.S_ISGID
        gid = made.gid if inherits else caller.gid
        if (made.uid, made.gid) == (caller.uid, gid):
            return None
        return AttrChange(uid=caller.uid, gid=gid)

    def _owned(self, target: Target, attrs: Attrs) -> Attrs:
        if self._namespace.view(target).owner is Owner.ME:
            return replace(attrs, uid=self._me.uid, gid=self._me.gid)
        return attrs

    def _synthetic(self, mode: int) -> Attrs:
        since = self._me.since_ns
        return Attrs(
            mode=mode,
            uid=self._me.uid,
            gid=self._me.gid,
            atime_ns=since,
            mtime_ns=since,
        )


def differs(one: Attrs, other: Attrs) -> bool:
    """Whether these cannot be the attributes of one unchanged file."""
    return (one.size, one.mtime_ns) != (other.size, other.mtime_ns)


def changed(attrs: Attrs, change: AttrChange) -> Attrs:
    """Return ``attrs`` as they will be with another mode or other times."""
    mode = attrs.mode if change.mode is None else change.mode
    return replace(
        attrs,
        mode=stat.S_IFMT(attrs.mode) | stat.S_IMODE(mode),
        atime_ns=_time(attrs.atime_ns, change.atime_ns),
        mtime_ns=_time(attrs.mtime_ns, change.mtime_ns),
    )


def paired(change: AttrChange, known: Attrs) -> AttrChange:
    """Return ``change`` with both times if it has one of them.

    SFTP sets them only in pairs.
    """
    if (change.atime_ns is None) == (change.mtime_ns is None):
        return change
    atime_ns, mtime_ns = change.atime_ns, change.mtime_ns
    return replace(
        change,
        atime_ns=known.atime_ns if atime_ns is None else atime_ns,
        mtime_ns=known.mtime_ns if mtime_ns is None else mtime_ns,
    )


def merged(first: AttrChange, then: AttrChange) -> AttrChange:
    """Return the one change that does what two do, one after the other."""
    later = {name: value for name, value in asdict(then).items() if value is not None}
    return replace(first, **later)


def _time(known_ns: int, wanted_ns: int | None) -> int:
    """Return ``wanted_ns`` in the resolution of the device.

    Whole seconds if ``known_ns`` has no fraction.
    """
    if wanted_ns is None:
        return known_ns
    return wanted_ns if known_ns % _SECOND_NS else wanted_ns // _SECOND_NS * _SECOND_NS


def _links(inode: Inode, attrs: Attrs) -> int:
    return max(attrs.nlink, len(inode.names)) if inode.names else 0
