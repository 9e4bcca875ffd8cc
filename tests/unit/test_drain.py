"""The way from a stop signal to the end."""

from __future__ import annotations

import asyncio

from echo.drain import Drain

#: Far longer than any test takes.
LONG_S = 3600.0


class Server:
    """What the drain looks at."""

    def __init__(self, window_s: float = 0.0, grace_s: float = LONG_S, *, serving: bool = True) -> None:
        self.open = 0
        self.drain = Drain(window_s, grace_s, serving=lambda: serving, open_requests=lambda: self.open)


async def until_refusing(drain: Drain) -> None:
    async with asyncio.timeout(LONG_S):
        while not drain.refusing:  # noqa: ASYNC110 - it sets no event
            await asyncio.sleep(0.01)


async def test_everything_is_served_until_the_window_is_over() -> None:
    drain = Server(window_s=LONG_S).drain
    drain.begin()
    assert (drain.begun, drain.refusing) == (True, False)
    drain.start()
    await asyncio.sleep(0.2)
    assert not drain.refusing
    drain.refuse()
    assert drain.refusing
    assert await drain.finish() == 0


async def test_it_is_over_when_nothing_is_open_any_more() -> None:
    server = Server()
    server.open = 2
    waiting = [asyncio.create_task(server.drain.finish()) for _ in range(3)]  # however often it is asked for
    await until_refusing(server.drain)
    await asyncio.sleep(0.1)
    assert not any(task.done() for task in waiting)
    server.open = 0
    assert await asyncio.gather(*waiting) == [0, 0, 0]
    assert await server.drain.finish() == 0


async def test_it_is_over_when_the_grace_is() -> None:
    server = Server(grace_s=0.0)
    server.open = 1
    assert await server.drain.finish() == 1
    assert server.drain.left_s == 0


async def test_whoever_waits_may_leave() -> None:
    server = Server()
    server.open = 1
    waiting = asyncio.create_task(server.drain.finish())
    await until_refusing(server.drain)
    waiting.cancel()
    await asyncio.wait((waiting,))
    server.open = 0
    assert await server.drain.finish() == 0


async def test_a_brief_window_ends_when_nothing_is_open() -> None:
    server = Server(window_s=LONG_S)
    server.open = 1
    server.drain.start(brief=True)
    await asyncio.sleep(0.2)
    assert not server.drain.refusing
    server.open = 0
    await until_refusing(server.drain)


async def test_a_server_that_does_not_serve_has_no_window() -> None:
    drain = Server(window_s=LONG_S, serving=False).drain
    drain.start()
    await until_refusing(drain)


async def test_timers_expire_when_it_begins_to_refuse() -> None:
    drain = Server().drain

    async def waits() -> bool:
        try:
            async with asyncio.timeout(LONG_S) as timer:
                with drain.wakes(timer):
                    await asyncio.Event().wait()
        except TimeoutError:
            return True
        return False

    waiting = [asyncio.create_task(waits()) for _ in range(3)]
    await asyncio.sleep(0)
    drain.refuse()
    assert await asyncio.gather(*waiting) == [True] * 3
