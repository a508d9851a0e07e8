"""The tables and services of one mount, which all kinds of requests work with.

Each has one owner of its state; see ``docs/concurrency.md``. ``tree`` builds them,
and a class takes out of this record, in its constructor, the parts that it uses.
"""

from __future__ import annotations

from dataclasses import dataclass

from pamfs.vfs.audit_records import AuditRecorder
from pamfs.vfs.background import Background
from pamfs.vfs.coherence import Coherence
from pamfs.vfs.handles import HandleTable
from pamfs.vfs.listings import DirectoryListings
from pamfs.vfs.lost_data import LostData
from pamfs.vfs.names.attributes import AttributeView
from pamfs.vfs.names.inodes import InodeTable
from pamfs.vfs.names.namespace import Namespace
from pamfs.vfs.remote_access import RemoteAccess


@dataclass(frozen=True, slots=True)
class Shared:
    """What ``Nodes``, ``Directories``, ``Files`` and the prefetch engines share."""

    namespace: Namespace
    inodes: InodeTable
    handles: HandleTable
    remote: RemoteAccess
    coherence: Coherence
    listings: DirectoryListings
    attributes: AttributeView
    recorder: AuditRecorder
    lost: LostData
    background: Background
