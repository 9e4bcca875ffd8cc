"""A checkpoint as a listener meets it: generated speech through the server's own engine, and its codec's copy."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from echo.engines.base import Engine
from echo.engines.load import load_engine
from echo.model.autoencoder import Autoencoder
from echo.model.autoencoder.pca import Pca
from echo.model.files.hub import ModelFiles, locate
from echo.model.files.weights import load_autoencoder, load_pca, shapes
from echo.presets import load_presets
from echo.settings import Settings, load_settings
from echo.sources import TINY_MODEL
from echo.text import split
from echo.types import SAMPLES_PER_LATENT, Audio, BlockPlan, SpeechOptions, TextRules, Utterance
from train.evaluation.heard import Heard, upsampled
from train.evaluation.heldout import Item
from train.tiny.corpus import Recording

#: What the embedded checkpoint is called in tables.
SHIPPED = "shipped"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model to be evaluated: its name in the tables, and a source for ``echo.load``."""

    name: str
    source: str

    @classmethod
    def named(cls, source: str) -> Checkpoint:
        """The embedded checkpoint for ``tiny``, else a folder in its layout, by the folder's name."""
        return cls(SHIPPED, TINY_MODEL) if source == TINY_MODEL else cls(Path(source).resolve().name, source)

    def files(self) -> ModelFiles:
        """Its files; raises LoadError for a folder that is no checkpoint."""
        return locate(self.source)

    def nbytes(self) -> int:
        """Size of everything in its folder."""
        return sum(path.stat().st_size for path in self.files().dit.parent.rglob("*") if path.is_file())

    def digest(self) -> str:
        """Twelve hexadecimal digits that name the weights."""
        files = self.files()
        hashed = hashlib.sha256()
        for path in (files.dit, files.pca, files.autoencoder):
            hashed.update(path.read_bytes())
        return hashed.hexdigest()[:12]

    def settings(self, device: str = "cpu", threads: int | None = None) -> Settings:
        """The server's settings for this model."""
        return load_settings(model_repo=self.source, device=device, cpu_threads=threads)


class Voice:
    """Speaks with an engine as the server would, one utterance at a time, with the preset's streaming blocks."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        info = engine.info
        presets = load_presets(
            settings.presets_path,
            info.preset_family,
            settings.performance_preset,
            nonstream_steps=settings.num_steps_nonstream,
            max_latents=info.max_latents,
            max_layers=info.num_layers,
        )
        self._engine = engine
        self._rules = TextRules(spell_out=info.words_only)
        self.plan: BlockPlan = presets.plan(SpeechOptions(), streaming=True)

    def speak(self, text: str, reference: Recording | None, *, seed: int) -> Heard:
        """Say a text in the voice of a clip; a text of several chunks is joined without a pause."""
        voice = self._engine.encode_voice(upsampled(reference)).result() if reference is not None else None
        parts: list[Audio] = []
        borders: list[int] = []
        ended, made = True, 0
        limit = self.plan.latents * SAMPLES_PER_LATENT
        for chunk in split(text, self._rules, self._engine.info.chunk_rules):
            utterance = Utterance(text=chunk.text, plan=self.plan, seed=seed, chunk=chunk.index, voice=voice)
            begun = made
            for frame in self._engine.speak(utterance):
                # Where two chunks meet the server fades; only borders within one can click.
                if frame.block and len(frame.samples):
                    borders.append(made)
                parts.append(frame.samples)
                made += len(frame.samples)
            ended = ended and made - begun < limit
        return Heard(np.concatenate([np.zeros(0, np.float32), *parts]), tuple(borders), ended)


@contextmanager
def open_voice(checkpoint: Checkpoint, *, device: str = "cpu", threads: int | None = None) -> Iterator[Voice]:
    """Load a checkpoint's engine, and close it again."""
    settings = checkpoint.settings(device, threads)
    engine = load_engine(settings, None)
    try:
        yield Voice(engine, settings)
    finally:
        engine.close()


@dataclass(frozen=True, slots=True)
class Codec:
    """A checkpoint's autoencoder and PCA."""

    autoencoder: Autoencoder
    pca: Pca

    @classmethod
    def load(cls, checkpoint: Checkpoint, device: str = "cpu") -> Codec:
        """Read them as the server does, in float32."""
        files = checkpoint.files()
        _, config = shapes(files.config)
        autoencoder = load_autoencoder(files.autoencoder, config, torch.device(device), torch.float32)
        return cls(autoencoder, load_pca(files.pca).to(device))

    @torch.inference_mode()
    def copy(self, recording: Recording) -> Heard:
        """Encode a recording, quantise it and decode it."""
        audio = torch.from_numpy(upsampled(recording)).to(self.autoencoder.device)
        return _heard(self.autoencoder.decode_zq(self.autoencoder.encode_zq(audio[None, None])), len(audio))

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Heard:
        """Decode latents [n, 80]."""
        return _heard(self.autoencoder.decode_zq(self.pca.decode(latents[None].to(self.autoencoder.device))))


def generate(voice: Voice, items: Sequence[Item], tick: Callable[[], None]) -> list[Heard]:
    """Say every item's text in the voice of its reference clip; the seed is the item's place."""
    made = []
    for seed, item in enumerate(items):
        made.append(voice.speak(item.recording.text, item.reference, seed=seed))
        tick()
    return made


def _heard(audio: Tensor, length: int | None = None) -> Heard:
    return Heard(audio[0, 0, :length].float().cpu().numpy())
