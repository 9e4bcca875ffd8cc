"""Whose new voice is read next: clients take turns, and only so many may wait."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from echo.errors import Overloaded
from echo.voices.turns import TurnRules, Turns


class Readers:
    """Requests of clients that take turns; ``order`` has the clients in the order in which their turns began."""

    def __init__(self, **rules: int) -> None:
        self.turns = Turns(TurnRules(**rules))
        self.order: list[str] = []
        self.most: Counter[str] = Counter()
        self._goes_on = asyncio.Event()

    def start(self, client: str, nbytes: int = 0) -> asyncio.Task[None]:
        return asyncio.create_task(self._read(client, nbytes))

    async def _read(self, client: str, nbytes: int) -> None:
        async with self.turns.take(client, nbytes):
            self.order.append(client)
            self.most["all"] = max(self.most["all"], self.turns.running)
            await self._goes_on.wait()

    def go_on(self) -> None:
        self._goes_on.set()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_as_many_as_may_have_a_turn_at_once() -> None:
    readers = Readers(running=2, waiting=10)
    tasks = [readers.start(client) for client in "abcd"]
    await settle()
    assert (readers.turns.running, readers.turns.waiting) == (2, 2)
    readers.go_on()
    await asyncio.gather(*tasks)
    assert (readers.turns.running, readers.turns.waiting, readers.most["all"]) == (0, 0, 2)


async def test_a_client_with_many_voices_does_not_keep_another_waiting() -> None:
    readers = Readers(running=1, waiting=20)
    tasks = [readers.start("greedy") for _ in range(8)]
    await settle()
    tasks += [readers.start("b"), readers.start("c"), readers.start("b")]
    await settle()
    readers.go_on()
    await asyncio.gather(*tasks)
    assert {"b", "c"} <= set(readers.order[:4]), readers.order
    assert readers.order[:6].count("b") == 2


async def test_who_has_fewest_in_progress_comes_first() -> None:
    readers = Readers(running=4, waiting=20)
    tasks = [readers.start(client) for client in ("greedy", "greedy", "b", "c")]
    await settle()
    tasks += [readers.start("b"), readers.start("other")]
    await settle()
    tasks[0].cancel()
    await settle()
    assert readers.order == ["greedy", "greedy", "b", "c", "other"]
    readers.go_on()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_turn_is_free_for_another_while_one_client_has_long_voices() -> None:
    readers = Readers(running=4, waiting=20)
    tasks = [readers.start("greedy") for _ in range(8)]
    await settle()
    assert readers.order == ["greedy", "greedy"]
    tasks += [readers.start("b"), readers.start("c"), readers.start("b")]
    await settle()
    assert readers.order == ["greedy", "greedy", "b", "c"]  # at once, though the long voices go on
    readers.go_on()
    await asyncio.gather(*tasks)
    assert (readers.turns.running, readers.turns.waiting, readers.most["all"]) == (0, 0, 4)


async def test_one_client_gets_half_of_the_places_and_others_the_rest() -> None:
    readers = Readers(running=1, waiting=6)
    tasks = [readers.start("greedy") for _ in range(10)]
    await settle()
    refused = [task for task in tasks if task.done()]
    assert len(refused) == 6
    assert all(isinstance(task.exception(), Overloaded) for task in refused)
    others = [readers.start(client) for client in "xyz"]
    await settle()
    assert not any(task.done() for task in others)
    late = readers.start("late")
    await settle()
    error = late.exception()
    assert isinstance(error, Overloaded)
    assert error.retry_after_s
    readers.go_on()
    await asyncio.gather(*tasks, *others, return_exceptions=True)
    assert readers.turns.waiting == 0


async def test_the_bytes_of_those_who_wait_are_limited() -> None:
    readers = Readers(running=1, waiting=100, waiting_bytes=100)
    tasks = [readers.start("a", 90), readers.start("a", 90), readers.start("a", 10), readers.start("b", 20)]
    await settle()
    # The first has its turn; the second waits with more than half, alone; the third would add to that; b has no room.
    assert [task.done() for task in tasks] == [False, False, True, True]
    assert readers.turns.waiting_bytes == 90
    small = readers.start("b", 10)
    await settle()
    assert not small.done()
    readers.go_on()
    await asyncio.gather(*tasks, small, return_exceptions=True)
    assert readers.turns.waiting_bytes == 0


async def test_who_leaves_while_waiting_leaves_nothing_behind() -> None:
    readers = Readers(running=1, waiting=4)
    first, second, third = readers.start("a"), readers.start("b", 50), readers.start("c")
    await settle()
    second.cancel()
    await settle()
    assert (readers.turns.waiting, readers.turns.waiting_bytes) == (1, 0)
    readers.go_on()
    await asyncio.gather(first, third)
    assert readers.order == ["a", "c"]


async def test_a_turn_that_comes_in_the_moment_of_leaving_goes_to_the_next() -> None:
    readers = Readers(running=1, waiting=4)
    first, second, third = readers.start("a"), readers.start("b"), readers.start("c")
    await settle()
    first.cancel()
    await asyncio.sleep(0)  # the turn has been given to b, who has not woken yet
    second.cancel()
    readers.go_on()
    await asyncio.wait_for(third, 60)
    await asyncio.gather(first, second, return_exceptions=True)
    assert "c" in readers.order
    assert readers.turns.running == 0


async def test_all_may_leave_at_the_same_moment() -> None:
    readers = Readers(running=1, waiting=10)
    tasks = [readers.start(client) for client in "aabbc"]
    await settle()
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(result) for result in results} == {asyncio.CancelledError}
    assert (readers.turns.running, readers.turns.waiting, readers.turns.waiting_bytes) == (0, 0, 0)


async def test_a_failure_gives_the_turn_back() -> None:
    turns = Turns(TurnRules(running=1))
    with pytest.raises(ValueError, match="no"):
        async with turns.take("a"):
            raise ValueError("no")
    async with asyncio.timeout(60), turns.take("b"):
        assert turns.running == 1
