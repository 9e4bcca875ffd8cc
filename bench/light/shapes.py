"""What the stages measure: the released shapes on a GPU, or a very small model to try the script."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch

from bench import ROOT
from echo.model.autoencoder import RELEASED as RELEASED_DECODER
from echo.model.autoencoder import AutoencoderConfig
from echo.model.autoencoder.config import TransformerConfig
from echo.model.cuda import encoders, graphs
from echo.model.cuda.decoder import Shape, shapes_within
from echo.model.network.config import ECHO_TTS_BASE, DiTConfig
from echo.types import LATENT_S, BlockPlan, BlockSpec, SamplerParams

#: Speech of the utterances that are spoken, in seconds.
_SPEECH_S = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    """A model and what is measured of it.

    dtype             of the transformer; decoder_dtypes: of the decoder ("tf32" is float32 with TF32 convolutions)
    buckets, texts, patches, pieces   what is captured
    shown             buckets that are in the table and profiled
    attention         latents of a timed attention call
    new_texts         lengths in tokens of texts that were not seen before
    streams, latents  of eager decoding
    plan              block plan of an utterance
    first_frames, hang_ups   how often they are measured
    listeners         of the loads, one after the other, each for ``load_s`` seconds
    measure_s         of one timed thing
    """

    dit: DiTConfig
    autoencoder: AutoencoderConfig
    dtype: torch.dtype
    decoder_dtypes: tuple[str, ...]
    buckets: tuple[int, ...]
    shown: tuple[int, ...]
    texts: tuple[int, ...]
    patches: tuple[int, ...]
    pieces: tuple[Shape, ...]
    attention: tuple[int, ...]
    new_texts: tuple[int, ...]
    streams: tuple[int, ...]
    latents: tuple[int, ...]
    plan: Callable[[], BlockPlan]
    voice_s: float
    first_frames: int
    hang_ups: int
    listeners: tuple[int, ...]
    load_s: float
    measure_s: float
    max_rows: int
    jobs: int


def released_plan() -> BlockPlan:
    """The blocks of the released preset that eight seconds of speech take; random weights speak to the end of a plan.

    Read here, because ``echo.presets`` needs a package.
    """
    preset = tomllib.loads((ROOT / "presets.toml").read_text(encoding="utf-8"))["echo"]["default"]
    names = {field.name for field in fields(SamplerParams)}
    blocks: list[BlockSpec] = []
    left = round(_SPEECH_S / LATENT_S)
    for size, steps in zip(preset["block_sizes"], preset["num_steps"], strict=True):
        if left > 0:
            blocks.append(BlockSpec(size=min(size, 32 * -(-left // 32)), steps=steps))
            left -= size
    params = SamplerParams(**{name: value for name, value in preset.items() if name in names})
    return BlockPlan(blocks=tuple(blocks), params=params)


def _tiny_plan() -> BlockPlan:
    return BlockPlan(blocks=(BlockSpec(size=8, steps=2), BlockSpec(size=4, steps=2)))


def _narrow(config: TransformerConfig) -> TransformerConfig:
    return replace(config, input_dim=128, dim=128, n_layer=1, n_head=2, intermediate_size=256)


def _tiny_decoder() -> AutoencoderConfig:
    """The released rates, kernels and windows with few channels and layers."""
    released, quantizer = RELEASED_DECODER, RELEASED_DECODER.quantizer
    transformers = tuple(None if each is None else _narrow(each) for each in released.encoder_transformers)
    assert quantizer.pre_module is not None  # there is one in what was released
    module = _narrow(quantizer.pre_module)
    return replace(
        released,
        encoder_dim=8,
        encoder_transformers=transformers,
        latent_dim=128,
        decoder_dim=32,
        quantizer=replace(
            quantizer, codebook_size=16, n_codebooks=2, semantic_codebook_size=32, pre_module=module, post_module=module
        ),
    )


RELEASED = Shapes(
    dit=ECHO_TTS_BASE,
    autoencoder=RELEASED_DECODER,
    dtype=torch.bfloat16,
    decoder_dtypes=("tf32", "bfloat16", "float32"),
    buckets=graphs.BUCKETS,
    shown=(96, 640, 2048),
    texts=encoders.TEXTS,
    patches=encoders.PATCHES,
    pieces=shapes_within(256),
    attention=(96, 640, 2048),
    new_texts=tuple(range(61, 61 + 20 * 17, 17)),
    streams=(1, 2, 4, 8),
    latents=(16, 32, 64, 128),
    plan=released_plan,
    voice_s=10.0,
    first_frames=24,
    hang_ups=40,
    listeners=(64, 128, 192),
    load_s=12.0,
    measure_s=0.3,
    max_rows=64,
    jobs=128,
)

TINY = Shapes(
    dit=replace(
        ECHO_TTS_BASE,
        model_size=64,
        num_layers=2,
        num_heads=2,
        intermediate_size=96,
        text_model_size=32,
        text_num_layers=1,
        text_num_heads=2,
        text_intermediate_size=48,
        speaker_model_size=32,
        speaker_num_layers=1,
        speaker_num_heads=2,
        speaker_intermediate_size=48,
        timestep_embed_size=16,
        adaln_rank=4,
    ),
    autoencoder=_tiny_decoder(),
    dtype=torch.float32,
    decoder_dtypes=("float32",),
    buckets=(32, 96, 192),
    shown=(32, 96),
    texts=(32, 160),
    patches=(4, 8),
    pieces=(Shape(1, 8), Shape(2, 8)),
    attention=(96,),
    new_texts=(11, 13, 17, 19),
    streams=(1, 2),
    latents=(4,),
    plan=_tiny_plan,
    voice_s=1.0,
    first_frames=3,
    hang_ups=2,
    listeners=(1, 2),
    load_s=0.5,
    measure_s=0.01,
    max_rows=8,
    jobs=4,
)
