"""A way to a server that can be closed as if the server had crashed, or held as if it hung; what it keeps stays."""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator
from typing import Any


class Gate:
    """A TCP proxy on an address of this machine; its coroutines run in a thread of their own."""

    def __init__(self, address: str, target: int, loop: asyncio.AbstractEventLoop) -> None:
        self._address = address
        self._target = target
        self._loop = loop
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self._carried: set[asyncio.Task[None]] = set()
        self.port = 0

    def open(self) -> None:
        """Take connections, on the same port as before."""
        self._run(self._listen())

    def shut(self) -> None:
        """Reset every connection, and refuse new ones."""
        self._run(self._shut())

    def hold(self) -> None:
        """Let nothing through; connections stay, and new ones are taken."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def let_go(self) -> None:
        """Let through what was held, and all else."""
        self._loop.call_soon_threadsafe(self._flowing.set)

    def close(self) -> None:
        """Let nothing through any more, for good."""
        self._run(self._end())

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._carry, self._address, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _shut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._ends:
            writer.transport.abort()

    async def _end(self) -> None:
        self._flowing.set()
        await self._shut()
        await asyncio.gather(*self._carried, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        carrying = asyncio.current_task()
        assert carrying is not None
        self._carried.add(carrying)
        ends = {writer}
        self._ends |= ends
        with contextlib.suppress(OSError):
            there, back = await asyncio.open_connection(self._address, self._target)
            ends.add(back)
            self._ends |= ends
            await asyncio.gather(self._pump(reader, back), self._pump(there, writer), return_exceptions=True)
        for end in ends:
            end.transport.abort()
        self._ends -= ends
        self._carried.discard(carrying)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(1 << 16):
                await self._flowing.wait()
                sink.write(data)
                await sink.drain()
        finally:
            sink.close()


@contextlib.contextmanager
def gate_to(address: str, target: int) -> Iterator[Gate]:
    """Open a gate to a port of an address; close it at the end."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="gate")
    thread.start()
    gate = Gate(address, target, loop)
    try:
        gate.open()
        yield gate
    finally:
        gate.close()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
