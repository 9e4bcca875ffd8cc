from __future__ import annotations

import gc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from echo.model.network.arena import Arena
from echo.model.network.kv import KV, copy_into, key_count


def arena(keys: int = 10) -> Arena:
    return Arena(2, 3, 4, keys, dtype=torch.float32, device="cpu")


def test_room_is_a_view_with_all_heads_of_a_key_together() -> None:
    memory = arena()
    memory.allocate(3)
    room = memory.allocate(4)
    assert room.shape == (2, 2, 3, 4, 4)
    assert memory.holds(room)
    assert not memory.holds(torch.zeros_like(room))
    room.fill_(1.0)
    assert memory.memory.sum() == room.numel()


def test_place_of_a_slice_is_that_of_its_first_key() -> None:
    memory = arena()
    first, second = memory.allocate(3), memory.allocate(5)
    assert [memory.start(first), memory.start(second), memory.start(second[:, :, :, 2:])] == [0, 3, 5]


def test_room_is_free_again_when_nobody_holds_it() -> None:
    memory = arena()
    first, second = memory.allocate(6), memory.allocate(4)
    with pytest.raises(MemoryError, match="1 keys, 0 are free"):
        memory.allocate(1)
    del first
    gc.collect()
    assert memory.free == 6
    assert memory.start(memory.allocate(6)) == 0
    assert key_count(second) == 4


def test_neighbouring_holes_become_one() -> None:
    memory = arena(9)
    rooms = [memory.allocate(3) for _ in range(3)]
    rooms.pop(0)
    rooms.pop()
    rooms.pop()
    gc.collect()
    assert key_count(memory.allocate(9)) == 9


def test_nothing_takes_no_room() -> None:
    memory = arena(0)
    assert memory.allocate(0).shape == (2, 2, 3, 0, 4)


def test_copy_has_the_values_of_the_original() -> None:
    memory = arena()
    original = torch.randn(2, 2, 3, 5, 4)
    assert torch.equal(copy_into(original, memory.allocate), original)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 12)), max_size=60))
def test_rooms_never_overlap_and_none_is_lost(moves: list[tuple[bool, int]]) -> None:
    memory, held = arena(40), list[tuple[int, KV]]()
    for number, (take, n) in enumerate(moves):
        if take:
            try:
                held.append((number, memory.allocate(n).fill_(number)))
            except MemoryError:
                assert memory.free < 40
        elif held:
            held.pop(n % len(held))
        assert all(bool((kv == value).all()) for value, kv in held)
        assert memory.free == 40 - sum(key_count(kv) for _, kv in held)
