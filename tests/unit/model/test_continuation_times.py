"""Times of what is spoken on from a recording, by the embedded model: the transcript in front is not spoken again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from echo.engines.heads import TextHeads
from echo.engines.load import load_weights
from echo.model.autoencoder.speaker import run_to_end, sliced_speaker_latents
from echo.model.autoencoder.streaming import StreamingDecoder
from echo.model.network.modulation import ModulationCache
from echo.model.sampling.prefix import Prefix
from echo.model.sampling.sampler import BlockSampler, draw_noise, make_conditions
from echo.settings import HOME, load_settings
from echo.text.tokenize import encode_sentence
from echo.timing.spelling import find_words
from echo.timing.words import WordTimes
from echo.types import SAMPLE_RATE, BlockSpec, SamplerParams
from echo.voices.reference import read_clip

#: What the clip says, up to a pause in it, and what follows.
SAID, MORE = "The weather was cold, and the water was warm.", "Please leave a message after the tone."
PAUSE_LATENT = 56
PARAMS = SamplerParams(cfg_scale_text=3.0, cfg_scale_speaker=1.0, cfg_min_t=0.0)


@pytest.mark.slow
@torch.inference_mode()
def test_a_continuation_is_timed_from_its_own_beginning() -> None:
    loaded = load_weights(load_settings({}, model_repo="tiny", device="cpu", model_dtype="float32"))
    TextHeads(loaded.dit, loaded.weights, HOME, encode_sentence)
    clip = torch.from_numpy(read_clip(HOME / "audio_prompts" / "tiny_anna.flac"))
    latents, _ = run_to_end(sliced_speaker_latents(loaded.autoencoder, loaded.pca, clip, max_latents=640))
    voice = loaded.dit.encode_speaker(latents[: len(latents) // 4 * 4])
    text = f"[S1] {SAID} {MORE}"
    ids = encode_sentence(text)
    prefix = Prefix(loaded.dit).append(latents[:PAUSE_LATENT])
    sampler = BlockSampler(
        loaded.dit,
        make_conditions(loaded.dit, torch.tensor(ids, dtype=torch.int32), voice),
        prefix,
        BlockSpec(size=64, steps=8, truncation=0.85),
        PARAMS,
        draw_noise(1, 0, 0, 0, 64),
        tables=ModulationCache(loaded.dit.modulation),
    )
    while not sampler.done:
        sampler.step()
    assert sampler.attention is not None
    decoder = StreamingDecoder(loaded.autoencoder, loaded.pca)
    samples = decoder.decode(decoder.decode(None, latents[:PAUSE_LATENT])[1], sampler.latents)[0]
    words = find_words(f"{SAID} {MORE}", [text])[0]
    left = [word for word in words if word.place >= len(SAID)]
    times = WordTimes(left, len(ids), SAMPLE_RATE)
    found = [*times.push(sampler.attention.numpy(), samples), *times.finish()]
    assert [word.word for word in found] == left
    lengths = [word.end_s - word.start_s for word in found]
    assert all(0.02 < length < 1.0 for length in lengths), lengths
    loud = np.flatnonzero(np.abs(samples) > 0.02) / SAMPLE_RATE
    assert abs(found[0].start_s - loud[0]) < 0.3
    assert abs(found[-1].end_s - loud[-1]) < 0.2
