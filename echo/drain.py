"""How a server lets go of its clients: first it is not ready, then it takes nothing new, then what is open ends."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator

#: Seconds between two looks at whether anything is open.
_LOOK_S = 0.05


class Drain:
    """A server's way from its first stop signal, or from ``POST /admin/drain``, to its end; there is no way back.

    window_s       time from the beginning in which everything is still served: balancers do not know yet
    grace_s        time after that for what is open
    serving        whether the server can serve at all; where it cannot, there is no window
    open_requests  how many requests are being spoken
    when_refusing  called when nothing new is taken any more
    """

    def __init__(
        self,
        window_s: float,
        grace_s: float,
        *,
        serving: Callable[[], bool],
        open_requests: Callable[[], int],
        when_refusing: Callable[[], None] = lambda: None,
    ) -> None:
        self._window_s = window_s
        self._grace_s = grace_s
        self._serving = serving
        self._open_requests = open_requests
        self._when_refusing = when_refusing
        #: Not ready any more; everything is still served.
        self.begun = False
        #: Nothing new is served.
        self.refusing = False
        self._brief = False
        self._deadline: float | None = None
        self._task: asyncio.Task[None] | None = None
        self._timers: set[asyncio.Timeout] = set()

    @property
    def open_requests(self) -> int:
        """Requests that are being spoken."""
        return self._open_requests()

    @property
    def left_s(self) -> float:
        """Seconds that open requests still have."""
        return self._grace_s if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def begin(self) -> None:
        """Be not ready from now on; may be called by a signal handler."""
        self.begun = True

    def start(self, *, brief: bool = False) -> float:
        """Let the window begin, where it has not yet; ``brief``: it ends as soon as nothing is open.

        Returns the length of the window that begins, in seconds; 0 for none.
        """
        self.begin()
        self._brief = self._brief or brief
        if self._task is not None:
            return 0.0
        window_s = self._window_s if self._serving() else 0.0
        self._task = asyncio.get_running_loop().create_task(self._run(window_s))
        return window_s

    def refuse(self) -> None:
        """End the window: take nothing new from now on, and give what is open its grace."""
        self.begin()
        if self.refusing:
            return
        self.refusing = True
        self._deadline = time.monotonic() + self._grace_s
        now = asyncio.get_running_loop().time()
        for timer in self._timers:
            with contextlib.suppress(RuntimeError):  # it is expiring anyway
                timer.reschedule(now)
        self._timers.clear()
        self._when_refusing()

    async def finish(self) -> int:
        """Start, wait until nothing is open or the grace is over, and return how many requests are open then."""
        self.start()
        assert self._task is not None
        await asyncio.shield(self._task)
        return self.open_requests

    def close(self) -> None:
        """Stop the clock: the server ends."""
        if self._task is not None:
            self._task.cancel()

    @contextlib.contextmanager
    def wakes(self, timer: asyncio.Timeout) -> Iterator[None]:
        """Have a timer expire when the server begins to refuse, if it does not do so yet."""
        if self.refusing:
            yield
            return
        self._timers.add(timer)
        try:
            yield
        finally:
            self._timers.discard(timer)

    def _may_end_early(self) -> bool:
        return self._brief and not self.open_requests

    async def _run(self, window_s: float) -> None:
        ends = time.monotonic() + window_s
        while not self.refusing and time.monotonic() < ends and not self._may_end_early():  # noqa: ASYNC110 - see below
            await asyncio.sleep(_LOOK_S)
        self.refuse()
        while self.open_requests and self.left_s:  # noqa: ASYNC110 - nothing tells when a request ends
            await asyncio.sleep(_LOOK_S)
