"""A way so long that only round trips count: answers wait for each other.

No answer is delivered until every request that is on its way has one. What a caller
waits for is then a number, whatever the machine's speed.
"""

from __future__ import annotations

import asyncio

import asyncssh
from asyncssh.packet import SSHPacket

from pamfs.transport.sftp.handles import forget_failure


def is_waited_for(reply: asyncio.Future[tuple[int, SSHPacket]]) -> bool:
    if reply.cancelled():
        return False
    return all(call is not forget_failure for call, _ in reply._callbacks or ())


class FarAway:
    """Counts the round trips and the requests of one SFTP channel from now on.

    Answers that nobody waits for (that of an unheard CLOSE) make no round trip.
    """

    def __init__(self, client: asyncssh.SFTPClient) -> None:
        self._handler = client._handler
        self._deliver = self._handler._process_packet
        self._held: list[tuple[int, int, SSHPacket]] = []
        self._handler._process_packet = self._hold  # type: ignore[method-assign]  # one instance
        self.round_trips = 0
        self.requests = 0

    async def _hold(self, pkttype: int, pktid: int, packet: SSHPacket) -> None:
        self._held.append((pkttype, pktid, packet))
        on_their_way = self._handler._requests
        if len(self._held) < len(on_their_way):
            return
        held, self._held = self._held, []
        waited_for = [n for _, n, _ in held if is_waited_for(on_their_way[n])]
        self.round_trips += bool(waited_for)
        self.requests += len(waited_for)
        for answer in held:
            await self._deliver(*answer)

    def bring_back(self) -> None:
        """Deliver answers as they come again."""
        self._handler._process_packet = self._deliver  # type: ignore[method-assign]
