"""What a guest run does with a trio in which one name is called differently.

    python -m tests.unit.guest_run NAME...

One line for each name, from a process of its own: whether trio needed a thread to wait.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import traceback

import outcome

from tests.fakes.renaming import as_renamed
from tests.limits import HANG_S


def needs_thread() -> bool:
    """Sleep in trio, a guest of an asyncio loop; return whether a thread waited."""
    import trio

    from pamfs.app.polling import without_thread

    loop = asyncio.new_event_loop()
    finished: asyncio.Future[outcome.Outcome[bool]] = loop.create_future()

    async def sleeps() -> bool:
        before = threading.active_count()
        with trio.fail_after(HANG_S):
            for _ in range(3):
                await trio.sleep(0.001)
            here, there = trio.socket.socketpair()
            await there.send(b"x")
            assert await here.recv(1) == b"x"
            here.close()
            there.close()
        return threading.active_count() > before

    def start() -> None:
        trio.lowlevel.start_guest_run(
            sleeps,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            run_sync_soon_not_threadsafe=loop.call_soon,
            done_callback=finished.set_result,
        )

    loop.call_soon(start)
    with without_thread(loop):
        return loop.run_until_complete(finished).unwrap()


def main() -> None:
    """Run each name in a fork, one after the other."""
    for name in sys.argv[1:]:
        pid = os.fork()
        if not pid:
            try:
                as_renamed("trio", name)
                found = "a thread" if needs_thread() else "no thread"
            except BaseException:  # noqa: BLE001 - it is what the test shows
                found = traceback.format_exc()
            os.write(1, f"{name} {found!r}\n".encode())
            os._exit(0)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
