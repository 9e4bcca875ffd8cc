"""How far a telephone line has played what it was sent: only its marks tell."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

#: Most audio that a line is sent ahead of what it has played, in seconds. Twilio throws away what is beyond 10 minutes
#: (its warning 31931); a caller who interrupts makes all of it void.
LEAD_S = 30.0
#: A line that has something to play and returns no mark for as long, in seconds, is not listening.
STALL_S = 30.0


class Stalled(Exception):
    """The line has stopped returning marks."""


class Playback:
    """Counts the seconds that one line was sent and has played. Belongs to one event loop."""

    def __init__(self, lead_s: float = LEAD_S, stall_s: float = STALL_S) -> None:
        #: Audio sent since the call began, and the part of it that is known to have been played, or dropped.
        self.sent_s = 0.0
        self.played_s = 0.0
        self._lead_s = lead_s
        self._stall_s = stall_s
        #: Marks on their way, in order -> where they are.
        self._marks: OrderedDict[str, float] = OrderedDict()
        self._count = 0
        self._moved = asyncio.Event()

    @property
    def unmarked_s(self) -> float:
        """Seconds sent since the last mark."""
        return self.sent_s - next(reversed(self._marks.values()), self.played_s)

    def sent(self, seconds: float) -> None:
        """Count audio that has been sent."""
        self.sent_s += seconds

    def mark(self, turn: int) -> str:
        """Return the name of a mark of a turn for what has been sent so far."""
        self._count += 1
        name = f"{turn}.{self._count}"
        self._marks[name] = self.sent_s
        return name

    def returned(self, name: str) -> None:
        """Note that a mark has come back; those of what was cleared are unknown by now, and ignored."""
        if name not in self._marks:
            return
        while self._marks:
            first, self.played_s = self._marks.popitem(last=False)
            if first == name:
                break
        self._moved.set()

    def clear(self) -> None:
        """Forget what has not been played: the line drops it."""
        self._marks.clear()
        self.played_s = self.sent_s
        self._moved.set()

    async def room(self) -> None:
        """Wait until more audio may be sent; raises Stalled."""
        await self._until_ahead_by_less_than(self._lead_s)

    async def finished(self) -> None:
        """Wait until everything up to the last mark has been played; raises Stalled."""
        while self._marks:
            await self._move()

    async def _until_ahead_by_less_than(self, seconds: float) -> None:
        while self.sent_s - self.played_s >= seconds:
            await self._move()

    async def _move(self) -> None:
        self._moved.clear()
        try:
            async with asyncio.timeout(self._stall_s):
                await self._moved.wait()
        except TimeoutError:
            raise Stalled from None
