from __future__ import annotations

import copy
import json
import random
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from echo.model.autoencoder import Autoencoder, AutoencoderConfig
from echo.model.autoencoder.pca import Pca
from echo.model.autoencoder.streaming import DecodeState, StreamingDecoder
from echo.model.files.weights import load_autoencoder, load_pca, random_autoencoder
from echo.types import Audio
from tests.unit.small_echo import CPU, narrow_release, small_autoencoder, small_pca

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parents[3] / "golden" / "vectors"
TINY = Path(str(resources.files("echo") / "assets" / "tiny"))


def load(folder: Path, weights: str, dtype: torch.dtype = torch.float32) -> tuple[Autoencoder, Pca]:
    config = AutoencoderConfig.from_dict(json.loads((folder / "config.json").read_text())["ae"])
    autoencoder = load_autoencoder(folder / weights, config, CPU, dtype)
    return autoencoder, load_pca(folder / "pca_state.safetensors")


@pytest.fixture(scope="module")
def golden() -> tuple[Autoencoder, Pca]:
    # In double precision, because how float32 rounds in these weights differs by 1e-5 from processor to processor.
    return load(GOLDEN, "ae_weights.safetensors", torch.float64)


@pytest.fixture(scope="module")
def tiny() -> tuple[Autoencoder, Pca]:
    return load(TINY, "s1dac_tiny.safetensors")


@pytest.fixture(scope="module")
def small() -> tuple[Autoencoder, Pca]:
    """Released rates, kernels and windows, all eight layers of the post-module, few channels."""
    return random_autoencoder(narrow_release(n_layer=8), CPU, torch.float32).fold_weight_norm(), small_pca()


def latents_of(seed: int, n: int) -> Tensor:
    return torch.randn(n, 80, generator=torch.Generator().manual_seed(seed)) * 0.5


def offline(model: tuple[Autoencoder, Pca], latents: Tensor) -> Audio:
    """All latents in a single piece."""
    autoencoder = copy.copy(model[0])
    autoencoder.max_piece = 10_000
    with torch.inference_mode():
        audio: Audio = autoencoder.decode_zq(model[1].decode(latents[None]).to(autoencoder.dtype))[0, 0].float().numpy()
    return audio


def stream(decoder: StreamingDecoder, latents: Tensor, sizes: Sequence[int]) -> tuple[Audio, DecodeState]:
    state, pieces = decoder.start(), []
    for piece in latents.split(list(sizes)):
        audio, state = decoder.decode(state, piece)
        pieces.append(audio)
    return np.concatenate(pieces), state


def random_sizes(seed: int, n: int) -> list[int]:
    draw = random.Random(seed)
    sizes: list[int] = []
    while (left := n - sum(sizes)) > 0:
        sizes.append(min(left, draw.choice([1, 1, 2, 3, 7, 16, 32, 70])))
    return sizes


@pytest.mark.parametrize("seed", range(6))
def test_golden_stream_is_the_offline_audio(golden: tuple[Autoencoder, Pca], seed: int) -> None:
    latents = latents_of(seed, 45)  # post-module window: 8
    audio, _ = stream(StreamingDecoder(*golden), latents, random_sizes(seed, 45))
    np.testing.assert_allclose(audio, offline(golden, latents), rtol=0, atol=3e-6)


@pytest.mark.parametrize("seed", range(6))
def test_tiny_stream_is_the_offline_audio(tiny: tuple[Autoencoder, Pca], seed: int) -> None:
    latents = latents_of(seed, 90)  # post-module window: 32
    audio, _ = stream(StreamingDecoder(*tiny), latents, random_sizes(seed, 90))
    np.testing.assert_allclose(audio, offline(tiny, latents), rtol=0, atol=1e-5)


@pytest.mark.parametrize("sizes", [[300], [32, 128, 140], [150, *[1] * 20, 130], [17] * 17 + [11]])
def test_released_shape_stream_is_the_offline_audio(small: tuple[Autoencoder, Pca], sizes: list[int]) -> None:
    latents = latents_of(0, 300)  # post-module window: 128
    audio, _ = stream(StreamingDecoder(*small), latents, sizes)
    np.testing.assert_allclose(audio, offline(small, latents), rtol=0, atol=1e-5)


def test_all_pieces_of_one_latent(small: tuple[Autoencoder, Pca]) -> None:
    latents = latents_of(3, 30)
    audio, state = stream(StreamingDecoder(*small), latents, [1] * 30)
    np.testing.assert_allclose(audio, offline(small, latents), rtol=0, atol=1e-5)
    assert state.position == 30


def test_the_past_matters_as_far_back_as_the_window(small: tuple[Autoencoder, Pca]) -> None:
    """A decoder that forgot would still be exact on the first piece; this one must differ without its past."""
    decoder = StreamingDecoder(*small)
    latents = latents_of(1, 140)
    _, state = decoder.decode(decoder.start(), latents[:130])
    continued, _ = decoder.decode(state, latents[130:])
    afresh, _ = decoder.decode(decoder.start(), latents[130:])
    assert np.abs(continued - afresh).max() > 1e-2


def test_cost_and_state_do_not_grow(small: tuple[Autoencoder, Pca]) -> None:
    frames: list[int] = []

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        frames.append(inputs[0].shape[-1])

    hook = small[0].decoder.model[-1].conv.register_forward_hook(count)
    decoder = StreamingDecoder(*small)
    state, sizes = decoder.start(), []
    for piece in latents_of(0, 160).split(16):
        _, state = decoder.decode(state, piece)
        sizes.append(state.nbytes)
    hook.remove()
    assert frames == [16 * 2048 + 6] * 10  # the last convolution has seven taps
    assert len(set(sizes)) == 1


def test_states_are_snapshots(tiny: tuple[Autoencoder, Pca]) -> None:
    decoder = StreamingDecoder(*tiny)
    first, rejected, kept, last = latents_of(5, 64).split(16)
    _, before = decoder.decode(decoder.start(), first)
    copies = [tail.clone() for tail in before.tails]
    decoder.decode(before, rejected)
    audio, state = decoder.decode(before, kept)
    assert all(torch.equal(tail, copied) for tail, copied in zip(before.tails, copies, strict=True))
    assert before.position == 16
    end, _ = decoder.decode(state, last)
    whole = offline(tiny, torch.cat((first, kept, last)))
    np.testing.assert_allclose(np.concatenate((audio, end)), whole[16 * 2048 :], rtol=0, atol=1e-5)


def test_a_batch_of_streams_of_different_ages_is_each_stream_alone(tiny: tuple[Autoencoder, Pca]) -> None:
    decoder = StreamingDecoder(*tiny)
    ages = [0, 3, 40, 70]
    latents = [latents_of(seed, age + 24) for seed, age in enumerate(ages)]
    states: list[DecodeState | None] = [
        decoder.decode(decoder.start(), row[:age])[1] if age else None for row, age in zip(latents, ages, strict=True)
    ]
    for start, end in ((0, 8), (8, 24)):
        pieces = [row[age + start : age + end] for row, age in zip(latents, ages, strict=True)]
        decoded = decoder.decode_batch(states, pieces)
        for row, age, (audio, _) in zip(latents, ages, decoded, strict=True):
            whole = offline(tiny, row)[(age + start) * 2048 : (age + end) * 2048]
            np.testing.assert_allclose(audio, whole, rtol=0, atol=1e-5)
        states = [state for _, state in decoded]
    assert [state.position for state in states if state is not None] == [age + 24 for age in ages]


def test_a_batch_of_new_streams(tiny: tuple[Autoencoder, Pca]) -> None:
    latents = [latents_of(seed, 8) for seed in range(3)]
    decoded = StreamingDecoder(*tiny).decode_batch([None, DecodeState(), None], latents)
    for row, (audio, _) in zip(latents, decoded, strict=True):
        np.testing.assert_allclose(audio, offline(tiny, row), rtol=0, atol=1e-5)


def test_a_stream_leaves_the_batch_it_was_in(tiny: tuple[Autoencoder, Pca]) -> None:
    decoder = StreamingDecoder(*tiny)
    latents = latents_of(9, 24)
    _, state = decoder.decode_batch([None, None], [latents[:16], latents_of(10, 16)])[0]
    audio, _ = decoder.decode(state, latents[16:])
    np.testing.assert_allclose(audio, offline(tiny, latents)[16 * 2048 :], rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_streams_give_float32_samples(dtype: torch.dtype) -> None:
    half = (small_autoencoder().to(dtype), small_pca())
    latents = latents_of(0, 40)
    audio, state = stream(StreamingDecoder(*half), latents, [8, 32])
    whole = offline((small_autoencoder(), small_pca()), latents)
    assert audio.dtype == np.float32
    assert np.std(audio - whole) < 0.05 * np.std(whole)
    assert all(tail.dtype in (dtype, torch.long) for tail in state.tails)


def test_state_size_of_the_release_shape(small: tuple[Autoencoder, Pca]) -> None:
    """Eight layers of 127 keys and values of width 128, and the tails of the convolutions."""
    _, state = stream(StreamingDecoder(*small), latents_of(0, 4), [4])
    keys_and_values = 8 * 2 * 127 * 128 * 4
    assert keys_and_values < state.nbytes < 1.1 * keys_and_values
    assert StreamingDecoder(*small).start().nbytes == 0


def test_unequal_empty_or_too_long_pieces_are_refused(
    tiny: tuple[Autoencoder, Pca], small: tuple[Autoencoder, Pca]
) -> None:
    decoder = StreamingDecoder(*tiny)
    with pytest.raises(ValueError, match=r"equally many each, got \[4, 5\]"):
        decoder.decode_batch([None, None], [latents_of(0, 4), latents_of(0, 5)])
    with pytest.raises(ValueError, match="at least 1 latent"):
        decoder.decode(decoder.start(), latents_of(0, 0))
    with pytest.raises(ValueError, match="4096 latents in all"):
        StreamingDecoder(*small).decode(DecodeState(position=4_090), latents_of(0, 9))


def test_silence_latents_decode_to_silence(tiny: tuple[Autoencoder, Pca]) -> None:
    audio, _ = StreamingDecoder(*tiny).decode(DecodeState(), torch.zeros(32, 80))
    assert np.abs(audio[8 * 2048 :]).max() < 0.02
