"""Whose new voice is read next: a few at a time, clients in turn, and no more waiting than is good for anybody."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from echo.errors import Overloaded

#: What a refused client is told to wait: a clip of usual length is read in less.
_RETRY_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRules:
    """How many voices are read at a time, how many may wait, and how many bytes of clips may wait with them.

    One client has at most half of each: a reference of 5 minutes can take minutes, and others shall not wait for it.
    """

    running: int = 4
    waiting: int = 32
    waiting_bytes: int = 256 * 2**20

    @property
    def running_of_one(self) -> int:
        """How many voices of one client are read at a time."""
        return (self.running + 1) // 2


@dataclass(eq=False, slots=True)
class _Waiter:
    client: str
    nbytes: int
    turn: asyncio.Future[None]


class Turns:
    """Gives turns to clients, those who have fewest in progress first, then round robin. Belongs to one event loop."""

    def __init__(self, rules: TurnRules | None = None) -> None:
        self._rules = rules or TurnRules()
        self._running: Counter[str] = Counter()
        self._queues: OrderedDict[str, deque[_Waiter]] = OrderedDict()
        self._bytes: Counter[str] = Counter()

    @property
    def running(self) -> int:
        """How many have their turn now."""
        return self._running.total()

    @property
    def waiting(self) -> int:
        """How many wait for it."""
        return sum(map(len, self._queues.values()))

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the clips that wait."""
        return self._bytes.total()

    @asynccontextmanager
    async def take(self, client: str, nbytes: int = 0) -> AsyncIterator[None]:
        """Have a turn for the block. Raises Overloaded at once where too many wait already."""
        if self._may_run(client):  # nobody who waits may: `_end` would have let them
            self._running[client] += 1
        else:
            await self._wait(client, nbytes)
        try:
            yield
        finally:
            self._end(client)

    def _may_run(self, client: str) -> bool:
        return self.running < self._rules.running and self._running[client] < self._rules.running_of_one

    async def _wait(self, client: str, nbytes: int) -> None:
        self._require_room(client, nbytes)
        waiter = _Waiter(client, nbytes, asyncio.get_running_loop().create_future())
        self._queues.setdefault(client, deque()).append(waiter)
        self._bytes[client] += nbytes
        try:
            await waiter.turn
        except BaseException:
            if waiter.turn.done() and not waiter.turn.cancelled():
                self._end(client)  # it was given in the very moment in which it was given up
            else:
                self._leave(waiter)
            raise

    def _require_room(self, client: str, nbytes: int) -> None:
        own = len(self._queues.get(client, ()))
        rules = self._rules
        full = self.waiting >= rules.waiting or self.waiting_bytes + nbytes > rules.waiting_bytes
        greedy = own >= (rules.waiting + 1) // 2 or (own and self._bytes[client] + nbytes > rules.waiting_bytes // 2)
        if full or greedy:
            raise Overloaded("Too many new voices are waiting to be read. Try again shortly.", retry_after_s=_RETRY_S)

    def _leave(self, waiter: _Waiter) -> None:
        queue = self._queues.get(waiter.client)
        if queue is not None and waiter in queue:  # else it has been passed over already: see `_end`
            queue.remove(waiter)
            self._forget(waiter, queue)

    def _forget(self, waiter: _Waiter, queue: deque[_Waiter]) -> None:
        self._bytes[waiter.client] -= waiter.nbytes
        if not queue:
            del self._queues[waiter.client]
        if not self._bytes[waiter.client]:
            del self._bytes[waiter.client]

    def _end(self, client: str) -> None:
        """Give the turn that has ended to the next."""
        self._running[client] -= 1
        if not self._running[client]:
            del self._running[client]
        while self._queues:
            chosen = min(self._queues, key=lambda name: self._running[name])  # the first of equals: longest not served
            if not self._may_run(chosen):
                break
            queue = self._queues[chosen]
            waiter = queue.popleft()
            self._queues.move_to_end(chosen)
            self._forget(waiter, queue)
            if not waiter.turn.done():  # else it has been given up, and its task has not run since
                self._running[chosen] += 1
                waiter.turn.set_result(None)
