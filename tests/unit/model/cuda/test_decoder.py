"""The decoder at padded shapes with the streams' memory in slots, with a stand-in for CUDA's graphs."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from echo.model.autoencoder.streaming import DecodeState, StreamingDecoder
from echo.model.cuda.decoder import CapturedDecoder, Shape, shapes_within
from tests.closeness import assert_close
from tests.unit.small_echo import small_autoencoder, small_pca

pytestmark = pytest.mark.slow

SHAPES = (Shape(1, 4), Shape(2, 4), Shape(3, 4), Shape(1, 8), Shape(2, 8))
AUTOENCODER, PCA = small_autoencoder(), small_pca()


class Graphs:
    """Stands in for CUDA's graphs: a replay writes to the tensor of the capture."""

    def __init__(self) -> None:
        self.captured: list[tuple[int, ...]] = []
        self.replayed: list[tuple[int, ...]] = []

    def __call__(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        out = run().clone()
        self.captured.append(tuple(out.shape))

        def replay() -> Tensor:
            self.replayed.append(tuple(out.shape))
            return out.copy_(run())

        return replay


def decoders(slots: int = 40) -> tuple[StreamingDecoder, StreamingDecoder, CapturedDecoder, Graphs]:
    """One that decodes as it comes, and one with graphs."""
    graphs = Graphs()
    captured = CapturedDecoder(AUTOENCODER, PCA, slots=slots, shapes=SHAPES, capture=graphs)
    fast = StreamingDecoder(AUTOENCODER, PCA)
    fast.captured = captured
    assert captured.start()
    graphs.replayed.clear()
    return StreamingDecoder(AUTOENCODER, PCA), fast, captured, graphs


def latents_of(stream: int, count: int) -> Tensor:
    return torch.randn(count, 80, generator=torch.Generator().manual_seed(stream))


@settings(deadline=None, max_examples=12)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 19)), min_size=1, max_size=4))
def test_streams_of_any_age_in_pieces_of_any_length_sound_as_alone(pieces: list[tuple[int, int]]) -> None:
    plain, fast, captured, graphs = decoders()
    expected: list[DecodeState | None] = [None] * 4
    found: list[DecodeState | None] = [None] * 4
    for turn, (streams, n) in enumerate(pieces):
        new = [latents_of(10 * turn + i, n) for i in range(streams)]
        wanted = [plain.decode(expected[i], new[i]) for i in range(streams)]
        done = fast.decode_batch(found[:streams], new)
        for i in range(streams):
            assert_close(torch.from_numpy(done[i][0]), torch.from_numpy(wanted[i][0]), rtol=0, atol=1e-4)
            expected[i], found[i] = wanted[i][1], done[i][1]
            assert done[i][1].position == wanted[i][1].position
    assert captured.misses == 0
    assert len(graphs.captured) == len(SHAPES)


def test_an_old_state_can_be_decoded_from_again() -> None:
    _, fast, _, _ = decoders()
    _, first = fast.decode(None, latents_of(1, 5))
    once, _ = fast.decode(first, latents_of(2, 3))
    fast.decode(None, latents_of(3, 8))
    again, _ = fast.decode(first, latents_of(2, 3))
    assert (once == again).all()


def test_a_long_piece_of_many_streams_is_few_replays() -> None:
    _, fast, _, graphs = decoders()
    new = [latents_of(i, 11) for i in range(3)]
    fast.decode_batch([None] * 3, new)
    hop = 2048
    assert graphs.replayed == [(2, 8 * hop), (1, 8 * hop), (3, 4 * hop)]


def test_a_stream_that_began_elsewhere_goes_on_in_a_slot() -> None:
    plain, fast, _, graphs = decoders()
    _, state = plain.decode(None, latents_of(1, 6))
    expected, _ = plain.decode(state, latents_of(2, 4))
    found, after = fast.decode(state, latents_of(2, 4))
    assert_close(torch.from_numpy(found), torch.from_numpy(expected), rtol=0, atol=1e-4)
    assert graphs.replayed
    assert after.slot is not None
    assert after.nbytes == state.nbytes
    back, _ = plain.decode(after, latents_of(3, 4))  # and the other way round
    assert_close(
        torch.from_numpy(back),
        torch.from_numpy(fast.decode(after, latents_of(3, 4))[0]),
        rtol=0,
        atol=1e-4,
    )


def test_latents_that_are_no_numbers_spoil_no_other_stream() -> None:
    plain, fast, _, _ = decoders()
    expected, _ = plain.decode(None, latents_of(2, 5))
    fast.decode_batch([None, None], [torch.full((8, 80), torch.nan)] * 2)
    found, state = fast.decode(None, latents_of(2, 5))
    assert_close(torch.from_numpy(found), torch.from_numpy(expected), rtol=0, atol=1e-4)
    found, _ = fast.decode(state, latents_of(3, 5))
    assert torch.from_numpy(found).isfinite().all()


def test_a_piece_whose_padding_reaches_beyond_the_last_position_is_decoded_as_it_comes() -> None:
    plain, fast, captured, _ = decoders()
    limit = AUTOENCODER.config.max_decode_latents
    _, state = plain.decode(None, latents_of(1, 2))
    tails = tuple(tail if tail.is_floating_point() else tail + limit - 7 for tail in state.tails)
    old = DecodeState(tails, limit - 5)
    expected, _ = plain.decode(old, latents_of(2, 5))
    found, _ = fast.decode(old, latents_of(2, 5))
    assert_close(torch.from_numpy(found), torch.from_numpy(expected), rtol=0, atol=1e-4)
    assert captured.misses == 1


def test_without_a_free_slot_a_stream_is_decoded_as_it_comes_and_counted() -> None:
    plain, fast, captured, _ = decoders(slots=8)
    expected = plain.decode(None, latents_of(1, 5))
    kept = [fast.decode(None, latents_of(1, 5)) for _ in range(10)]
    for audio, _ in kept:
        assert_close(torch.from_numpy(audio), torch.from_numpy(expected[0]), rtol=0, atol=1e-4)
    assert captured.misses == 2
    del kept
    gc.collect()
    fast.decode(None, latents_of(1, 5))
    assert captured.misses == 2


def test_a_device_without_graphs_decodes_all_the_same_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    def failing(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        raise RuntimeError("no graphs here")

    fast = StreamingDecoder(AUTOENCODER, PCA)
    fast.captured = CapturedDecoder(AUTOENCODER, PCA, slots=8, shapes=SHAPES, capture=failing)
    with caplog.at_level(logging.WARNING):
        assert not fast.captured.start()
    assert "do not work here: RuntimeError" in caplog.text
    audio, _ = fast.decode(None, latents_of(1, 3))
    assert len(audio) == 3 * 2048


def test_graphs_that_deviate_are_not_used(caplog: pytest.LogCaptureFixture) -> None:
    def wrong(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        return lambda: run() + 0.5

    captured = CapturedDecoder(AUTOENCODER, PCA, slots=8, shapes=SHAPES, capture=wrong)
    with caplog.at_level(logging.WARNING):
        assert not captured.start()
    assert "deviate" in caplog.text
    assert captured([DecodeState()], latents_of(1, 3)[None]) is None


def test_shapes_stay_within_the_memory_and_the_largest_come_first() -> None:
    shapes = shapes_within(64)
    assert shapes == (Shape(1, 64), Shape(2, 32), Shape(1, 32))
    assert all(shape.streams * shape.latents <= 256 for shape in shapes_within(256))
    assert Shape(8, 32) in shapes_within(256)
