from __future__ import annotations

import torch
from torch import Tensor

from echo.model.network.kv import KV, RowContext, key_count, pack_context, scaled

SIZE = 3


def kv(n: int, seed: int = 0) -> Tensor:
    """Two layers, three heads of four."""
    return torch.randn(2, 2, 3, n, 4, generator=torch.Generator().manual_seed(seed))


def room(n: int) -> KV:
    return torch.full((2, 2, 3, n, 4), torch.nan)


TEXT, LATENT, SPEAKER = kv(5, 1), kv(2, 2), kv(4, 3)


def context_of(row: RowContext) -> Tensor:
    """The keys beside the row's own."""
    front = row.own.data_ptr() == row.keys.data_ptr()
    return row.keys[:, :, :, SIZE:] if front else row.keys[:, :, :, :-SIZE]


def test_row_is_its_sources_in_order_beside_its_own_keys() -> None:
    row = pack_context([[TEXT, LATENT, SPEAKER]], SIZE, room)[0]
    assert row.keys.shape == (2, 2, 3, SIZE + 11, 4)
    assert row.own.shape == (2, 2, 3, SIZE, 4)
    assert torch.equal(context_of(row), torch.cat((TEXT, LATENT, SPEAKER), dim=3))


def test_own_keys_are_part_of_the_rows_keys_and_of_nothing_else() -> None:
    sources = [TEXT, LATENT, SPEAKER]
    before = [source.clone() for source in sources]
    rows = pack_context([sources, [LATENT, SPEAKER], [TEXT, LATENT], []], SIZE, room)
    for row in rows:
        expected = context_of(row).clone()
        row.own.fill_(7.0)
        assert (row.keys == 7.0).sum() == row.own.numel()
        assert torch.equal(context_of(row), expected)
    assert all(torch.equal(a, b) for a, b in zip(sources, before, strict=True))


def test_row_without_text_reads_the_memory_of_the_full_row() -> None:
    rows = pack_context([[TEXT, LATENT], [LATENT]], SIZE, room)
    assert len({row.keys.untyped_storage().data_ptr() for row in rows}) == 1
    assert torch.equal(context_of(rows[1]), LATENT)


def test_every_row_has_room_for_its_own_keys_and_writes_over_no_others() -> None:
    sources = [[TEXT, LATENT], [LATENT], [TEXT, LATENT], [], [TEXT, LATENT]]
    rows = pack_context(sources, SIZE, room)
    for i, row in enumerate(rows):
        row.own.fill_(float(i))
    for i, (row, expected) in enumerate(zip(rows, sources, strict=True)):
        assert (row.own == i).all()
        if expected:
            assert torch.equal(context_of(row), torch.cat(expected, dim=3))


def test_voice_is_shared_as_it_is_and_counts_as_seen() -> None:
    rows = pack_context([[TEXT], [TEXT]], SIZE, room, [SPEAKER, None])
    assert rows[0].voice is SPEAKER
    assert rows[1].voice is None
    assert [row.seen for row in rows] == [SIZE + 5 + 4, SIZE + 5]


def test_equal_values_in_other_tensors_are_not_taken_for_the_same() -> None:
    other = SPEAKER.clone()
    rows = pack_context([[TEXT, SPEAKER], [TEXT, other]], SIZE, room)
    assert rows[0].keys.data_ptr() != rows[1].keys.data_ptr()


def test_row_that_sees_nothing_has_only_its_own_keys() -> None:
    row = pack_context([[]], SIZE, room)[0]
    assert row.keys.shape == row.own.shape == (2, 2, 3, SIZE, 4)


def test_scaling_multiplies_a_copy_in_the_first_layers() -> None:
    original = SPEAKER.clone()
    first = scaled(SPEAKER, 1.5, 1, room)
    assert torch.equal(first[0], SPEAKER[0] * 1.5)
    assert torch.equal(first[1], SPEAKER[1])
    assert torch.equal(scaled(SPEAKER, 1.5, None, room), SPEAKER * 1.5)
    assert torch.equal(scaled(SPEAKER, 1.5, 24, room), SPEAKER * 1.5)
    assert torch.equal(scaled(SPEAKER, 1.5, 0, room), SPEAKER)
    assert torch.equal(SPEAKER, original)
    assert key_count(SPEAKER) == 4
