"""What the codec learns from: samples, latents and phases of a part of the corpus, and segments cut from them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from echo.files import atomic_write
from train.tiny.corpus import RATE, Corpus, Recording
from train.tiny.latents import HOP, SUB_FRAMES, SUB_HOP, Analysis

#: Full scale of 16-bit samples.
INT16 = 32_767.0
#: Latents of silence after each recording, so that segments also show the decoder ends and beginnings.
_GAP = 4
#: Recordings per file of prepared material.
_PART = 200
#: Taps on each side, at 44.1 kHz, of the filter that doubles the rate.
REACH = 160
#: Hz at the middle of the filter's edge, which is 0.6 kHz wide: what is lost below it, an encoder would learn to add.
_CUTOFF = 10_700.0


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """Recordings behind one another with gaps of silence, ``n`` latents in all, on one device.

    samples [n · 1024] i16; latents [n, 80] f16; voicing, pitch, phase [n · 4] f32, at the ends of sub-frames
    """

    samples: Tensor
    latents: Tensor
    voicing: Tensor
    pitch: Tensor
    phase: Tensor

    @classmethod
    def of(cls, recordings: Sequence[Recording], analysis: Analysis) -> Self:
        """Analyse recordings."""
        parts: list[tuple[Tensor, ...]] = []
        for recording in recordings:
            silence = -len(recording.samples) % HOP + _GAP * HOP
            signal = F.pad(torch.as_tensor(recording.samples), (0, silence))
            frames = analysis.analyse(signal)
            samples = (signal.clamp(-1.0, 1.0) * INT16).round().to(torch.int16)
            parts.append((samples, analysis.from_frames(frames).half(), frames.voicing, frames.pitch, frames.phase))
        return cls(*(torch.cat(column) for column in zip(*parts, strict=True)))

    @classmethod
    def joined(cls, parts: Sequence[Material]) -> Self:
        """Put materials behind one another."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def to(self, device: torch.device) -> Material:
        """A copy on ``device``."""
        return Material(*(getattr(self, field.name).to(device) for field in fields(self)))

    def state(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @staticmethod
    def room(latents: int) -> int:
        """How many latents a recording of so many takes up, with the silence behind it."""
        return latents + _GAP

    @property
    def hours(self) -> float:
        """How much there is."""
        return self.samples.shape[0] / RATE / 3600


def prepare(corpus: Corpus, analysis: Analysis, folder: Path, *, hours: float, seed: int, progress: bool) -> Material:
    """Analyse ``hours`` of the training part (all if there is less), in a fixed order, and read what was done before.

    Finished files in ``folder`` are kept: a corpus that has grown since adds new ones, up to ``hours``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = sorted(folder.glob("*.safetensors"))
    parts = [Material(**load_file(path)) for path in found]
    done = set(keys_of(folder))
    missing = hours * 3600 - sum(part.hours for part in parts) * 3600
    shuffled = np.random.default_rng(seed).permutation(list(corpus.split("train"))).tolist()
    order = [row for row in shuffled if corpus.describe(row)[0] not in done]
    first = 1 + max((int(path.stem) for path in found), default=-1)
    for number, rows in enumerate(_packs(corpus, order, missing), start=first):
        recordings = [corpus[row] for row in rows]
        listed = tqdm(recordings, desc=f"analysing {number}", disable=not progress, leave=False)
        part = Material.of(list(listed), analysis)
        path = folder / f"{number:04d}.safetensors"
        _keys(path).write_text("\n".join(one.key for one in recordings) + "\n", encoding="utf-8")
        with atomic_write(path) as unfinished:
            save_file(part.state(), unfinished)
        parts.append(part)
    if not parts:
        raise ValueError("the corpus has no recordings to train the codec on")
    return Material.joined(parts)


def keys_of(folder: Path) -> list[str]:
    """What the recordings are called that ``prepare`` left in ``folder``, in the order in which they lie there."""
    found = sorted(folder.glob("*.safetensors"))
    return [key for path in found for key in _keys(path).read_text(encoding="utf-8").splitlines()]


def _keys(path: Path) -> Path:
    """Beside a file of material: which recordings are in it."""
    return path.with_suffix(".keys")


def _packs(corpus: Corpus, order: Sequence[int], seconds: float) -> Iterator[list[int]]:
    pack: list[int] = []
    for index in order:
        if seconds <= 0:
            break
        pack.append(index)
        seconds -= corpus.seconds(index)
        if len(pack) == _PART:
            yield pack
            pack = []
    if pack:
        yield pack


@dataclass(frozen=True, slots=True, eq=False)
class Segments:
    """A batch of ``b`` pieces of ``n`` latents.

    latents [b, n, 80] f32; audio [b, n · 2048] f32 at 44.1 kHz, or [b, n · 1024] at 22.05 kHz; voicing and phase
    [b, 4 n + 1] f32 at the borders of sub-frames, the phase unwrapped within the piece
    """

    latents: Tensor
    audio: Tensor
    voicing: Tensor
    phase: Tensor

    def at(self, values: Tensor, per_latent: int) -> Tensor:
        """Interpolate border values ``[b, 4 n + 1]`` to ``per_latent`` points per latent ``[b, n · per_latent]``."""
        count = self.latents.shape[1] * per_latent
        places = torch.arange(count, device=values.device) * (SUB_FRAMES / per_latent)
        left = places.floor().long()
        share = places - left
        return values[:, left] * (1.0 - share) + values[:, left + 1] * share


def draw(material: Material, *, batch: int, length: int, generator: torch.Generator, native: bool = False) -> Segments:
    """Cut ``batch`` random segments of ``length`` latents; ``native`` leaves the audio at 22.05 kHz."""
    device = material.samples.device
    last = material.latents.shape[0] - length - 1
    starts = torch.randint(1, max(last, 2), (batch, 1), generator=generator).to(device)
    rows = starts + torch.arange(length, device=device)
    borders = starts * SUB_FRAMES - 1 + torch.arange(length * SUB_FRAMES + 1, device=device)
    reach = REACH // 2
    places = starts * HOP - reach + torch.arange(length * HOP + 2 * reach, device=device)
    samples = material.samples[places.clamp(max=material.samples.shape[0] - 1)].float() / INT16
    return Segments(
        latents=material.latents[rows].float(),
        audio=samples[:, reach:-reach] if native else doubled(samples),
        voicing=material.voicing[borders],
        phase=_unwrapped(material.phase[borders], material.pitch[borders]),
    )


def _unwrapped(phase: Tensor, pitch: Tensor) -> Tensor:
    """Add the whole turns that the pitch between the borders tells."""
    step = phase.diff(dim=1)
    expected = math.tau * SUB_HOP / RATE * 0.5 * (pitch[:, 1:] + pitch[:, :-1])
    step = step + math.tau * ((expected - step) / math.tau).round()
    return torch.cat((phase[:, :1], phase[:, :1] + step.cumsum(1)), 1)


def doubled(samples: Tensor) -> Tensor:
    """Samples ``[b, n + REACH]`` at 22.05 kHz -> ``[b, 2 n]`` at 44.1 kHz, less ``REACH / 2`` at each end."""
    taps = torch.arange(-REACH, REACH + 1, dtype=torch.float64)
    kernel = torch.sinc(taps * _CUTOFF / RATE) * torch.kaiser_window(2 * REACH + 1, periodic=False, beta=7.0).double()
    kernel = (2.0 * kernel / kernel.sum()).to(samples)
    up = F.conv_transpose1d(samples[:, None], kernel[None, None], stride=2)[:, 0]
    return up[:, 2 * REACH : 2 * REACH + 2 * (samples.shape[1] - REACH)]
