"""The whole recipe on two sentences, about half a minute: what comes out of the server's engine are those sentences."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import soxr
import torch
from torch import Tensor

from echo.engines.block import BlockEngine
from echo.engines.load import load_engine
from echo.model.files.weights import load_echo
from echo.model.network.config import DiTConfig
from echo.settings import load_settings
from echo.types import SAMPLE_RATE, BlockPlan, BlockSpec, SamplerParams, TailRules, Utterance
from train.tiny import config
from train.tiny.budget import Budget
from train.tiny.codec import CodecOptions, CodecShape, SpectralShape
from train.tiny.config import TinyConfig
from train.tiny.corpus import RATE, Recording
from train.tiny.dit import DiTOptions
from train.tiny.dit_batches import BatchOptions
from train.tiny.export import size
from train.tiny.latents import MEL, Analysis
from train.tiny.speak import latents_of
from train.tiny.spectral_training import SpectralOptions
from train.tiny.stages import Run

from .small_speech import say, write_corpus

pytestmark = pytest.mark.slow

TEXTS = ("mama mia, seso.", "o sima, semo a.")
LATENTS = 48
DIT = DiTConfig(
    latent_size=80,
    model_size=96,
    num_layers=3,
    num_heads=3,
    intermediate_size=192,
    norm_eps=1e-5,
    text_vocab_size=256,
    text_model_size=64,
    text_num_layers=2,
    text_num_heads=2,
    text_intermediate_size=128,
    speaker_patch_size=4,
    speaker_model_size=64,
    speaker_num_layers=1,
    speaker_num_heads=2,
    speaker_intermediate_size=128,
    timestep_embed_size=64,
    adaln_rank=16,
)
CODEC = CodecShape(
    encoder_dim=4,
    encoder_rates=(16, 8, 4),
    pre_layers=1,
    codebooks=4,
    codebook_size=32,
    spectral=SpectralShape(dim=48, layers=2, context_layers=1),
)
#: A tenth of the codec's are the encoder's; the decoder is polished from 36 on.
BUDGETS = {"codec": Budget(steps=40), "dit": Budget(steps=260), "polish": Budget(steps=41)}
#: Every latent of a sentence that is spoken right is nearer to the taught one than this share of its size.
NEAR = 0.3
#: A model that was not trained misses by more than this.
FAR = 0.8


def options(work: Path) -> TinyConfig:
    """A recipe small enough for a test."""
    shipped = config.load(config.DEFAULT)
    return TinyConfig(
        run=replace(shipped.run, work=str(work)),
        corpus=replace(shipped.corpus, workers=1),
        dit=DiTOptions(
            alignment_layers=(1,),
            phone_layer=1,
            lr=5e-3,
            muon_lr=5e-3,
            bf16=False,  # which most CPUs only emulate
            batches=BatchOptions(frames=512, buckets=(LATENTS,), whole=1.0, long_padding=0.0, reference=(16, 16)),
        ),
        codec=CodecOptions(
            shape=CODEC,
            encoder_share=0.1,
            polish_share=0.1,
            spectral=SpectralOptions(
                batch=2, length=8, skip=2, warm_up=1, lr=5e-3, average=0.9, gan_windows=(256,), gan_from=1.0
            ),
        ),
        model={**shipped.model, "dit": {name: getattr(DIT, name) for name in DIT.__slots__}},
    )


@dataclass(frozen=True, slots=True, eq=False)
class Taught:
    """What was trained on, and where the result lies."""

    folder: Path
    recordings: list[Recording]
    analysis: Analysis

    def latents(self, sentence: int) -> Tensor:
        return self.analysis.latents(self.recordings[sentence].samples)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Taught:
    work = tmp_path_factory.mktemp("run")
    recordings = [say(text) for text in TEXTS]
    write_corpus(work / "corpus", recordings, ["train", "train"])
    run = Run(options(work), torch.device("cpu"), BUDGETS)
    for stage in ("analysis", "codec", "dit", "polish", "export"):
        run.stage(stage)
    return Taught(work / "model", recordings, Analysis.load(work / "analysis.safetensors"))


@pytest.fixture(scope="module")
def engine(taught: Taught) -> Iterator[BlockEngine]:
    made = load_engine(load_settings({}, model_repo=str(taught.folder), model_dtype="float32"), None)
    yield made
    made.close()


def miss(spoken: Tensor, wanted: Tensor) -> float:
    """Squared error relative to the wanted latents' size."""
    return float((spoken[: len(wanted)] - wanted).square().sum() / wanted.square().sum())


def likeness(heard: Tensor, wanted: Tensor) -> float:
    """Cosine between two utterances' latents: what level the codec gives them does not matter."""
    size = min(len(heard), len(wanted))
    return float(torch.cosine_similarity(heard[:size].flatten(), wanted[:size].flatten(), dim=0))


@pytest.mark.parametrize("sentence", [0, 1])
def test_the_exported_model_speaks_the_sentence_it_was_taught_and_not_the_other(taught: Taught, sentence: int) -> None:
    model = load_echo(str(taught.folder), dtype=torch.float32)
    other = taught.latents(1 - sentence)
    voice = model.dit.encode_speaker(other[:16])
    spoken = latents_of(model, TEXTS[sentence], size=LATENTS, speaker=voice)
    wanted = taught.latents(sentence)
    assert miss(spoken, wanted) < NEAR
    assert miss(spoken, other) > FAR
    assert spoken[len(wanted) :].square().mean().sqrt() < 0.3  # silence behind the end; speech has 1


def test_a_model_that_was_not_trained_speaks_neither(taught: Taught, tmp_path: Path) -> None:
    work = tmp_path / "run"
    work.mkdir()
    for left in ("corpus", "analysis.safetensors", "latents", "codec"):
        (work / left).symlink_to(taught.folder.parent / left)
    run = Run(options(work), torch.device("cpu"), {**BUDGETS, "dit": Budget(steps=1)})
    for stage in ("dit", "export"):
        run.stage(stage)
    model = load_echo(str(work / "model"), dtype=torch.float32)
    spoken = latents_of(model, TEXTS[0], size=LATENTS)
    assert min(miss(spoken, taught.latents(sentence)) for sentence in (0, 1)) > FAR


def test_the_servers_engine_is_heard_speaking_the_right_sentence(taught: Taught, engine: BlockEngine) -> None:
    plan = BlockPlan(
        blocks=(BlockSpec(size=LATENTS, steps=8, truncation=0.85),),
        params=SamplerParams(cfg_scale_text=1.5, cfg_scale_speaker=0.0, cfg_min_t=0.0),
        tail=TailRules(early_stop_on_zero=False),
    )
    for sentence, text in enumerate(TEXTS):
        frames = list(engine.speak(Utterance(text=f"[S1] {text}", plan=plan, seed=1, voice=None)))
        audio = np.concatenate([frame.samples for frame in frames])
        heard = taught.analysis.latents(soxr.resample(audio, SAMPLE_RATE, RATE))[:, MEL]
        alike = [likeness(heard, taught.latents(one)[:, MEL]) for one in (0, 1)]
        assert alike[sentence] > alike[1 - sentence] + 0.1, alike


def test_the_folder_is_a_complete_small_model(taught: Taught) -> None:
    described = json.loads((taught.folder / "config.json").read_text(encoding="utf-8"))
    assert described["engine"]["presets"] == "tiny"
    assert {path.name for path in taught.folder.iterdir()} == {
        "config.json",
        "alignment.json",
        "analysis.safetensors",
        *described["files"].values(),
    }
    assert size(taught.folder) < 30_000_000
    assert (taught.folder.parent / "spectrograms.png").stat().st_size > 10_000
