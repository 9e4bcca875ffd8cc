"""Draws training batches from tensors: whole utterances and crops, references of the same speaker, noise.

A batch depends on nothing but (seed, step) and the encoded clips there are, so a run that is resumed goes on with the
batch it would have had.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from train.tiny.dit_data import SILENT, SPLITS, Utterances
from train.tiny.dit_model import Inputs

#: Positions where blocks begin when the server speaks in blocks, and more.
CROP_STARTS = (0, 32, 64, 96, 128, 160, 192)
_SHAPE_STEP = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """What batches are made of.

    frames            about how many latents of speech (and of silence behind it) a batch has
    buckets           lengths that whole utterances are padded to; longer utterances are only cropped
    whole             share of batches of whole utterances; the others are crops with a clean prefix
    crop_lengths      lengths of crops
    long_padding      share of whole batches that are padded to the longest bucket
    reference         shortest and longest reference, in latents
    condition_noise   largest deviation of the noise on references and prefixes
    dropout           share of rows without text, and of rows without reference
    tail_weight       loss weight of the latents behind the end of speech
    encoded           share of references through the codec's encoder, where there are any
    slower, faster    speakers with fewer or more latents per byte than these multiples of the median are left out
    balance           0: every utterance is drawn as often as any other, 1: every speaker; between: a speaker of n
                      utterances counts as n ** (1 - balance)
    """

    frames: int = 2048
    buckets: tuple[int, ...] = (48, 64, 80, 96, 128, 160, 192, 224, 256)
    whole: float = 0.65
    crop_lengths: tuple[int, ...] = (32, 64, 96, 128)
    long_padding: float = 0.06
    reference: tuple[int, int] = (64, 96)
    condition_noise: float = 0.15
    dropout: float = 0.1
    tail_weight: float = 0.25
    encoded: float = 0.5
    slower: float = 1.5
    faster: float = 0.67
    balance: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """What the outputs of a batch are compared with.

    velocity      [rows, size, latent_size]   noise minus clean
    frame_weight  [rows, size]                1 in speech, less behind it, 0 for nothing
    time          [rows, size]                middle of a latent, in latents from the utterance's start
    labels        [rows, size, 2]             phones
    centres       [rows, bytes]               when a byte is spoken, in latents; -1 = has no time
    phones        [rows, phones]              what the whole text says, without pauses, padded
    sounds        [rows]                      how many phones that are
    """

    velocity: Tensor
    frame_weight: Tensor
    time: Tensor
    labels: Tensor
    centres: Tensor
    phones: Tensor
    sounds: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class References:
    """Latents of reference clips, to be drawn by speaker; ``latents [frames, 80]``, the others ``[n]``."""

    latents: Tensor
    offset: Tensor
    length: Tensor
    by_speaker: dict[int, np.ndarray]


class _Draws:
    """Random tensors, drawn on the CPU so that they are the same for every device."""

    def __init__(self, generator: torch.Generator, device: torch.device) -> None:
        self._generator, self._device = generator, device

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator).to(self._device)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self._generator).to(self._device)


class Batches:
    """Draws batches of one split of ``utterances``; everything on the utterances' device.

    encoded   reference clips through the codec's encoder, if there are any
    """

    def __init__(
        self,
        utterances: Utterances,
        options: BatchOptions,
        *,
        seed: int,
        split: str = "train",
        encoded: References | None = None,
        patch: int = 4,
    ) -> None:
        self._all = utterances
        self._options = options
        self._seed = seed
        self._patch = patch
        self._encoded = encoded
        self._length = utterances.length.cpu().numpy()
        self._speaker = utterances.speaker.cpu().numpy()
        chosen = np.flatnonzero((utterances.split == SPLITS.index(split)).cpu().numpy())
        if not len(chosen):
            raise ValueError(f"no utterance belongs to the split {split}")
        self._chosen = chosen[np.isin(self._speaker[chosen], self._paced())]
        self._weight = self._balanced()
        self._buckets: list[tuple[int, np.ndarray]] = []
        low = 0
        for size in options.buckets:
            within = self._chosen[(self._length[self._chosen] > low) & (self._length[self._chosen] <= size)]
            if len(within):
                self._buckets.append((size, within))
            low = size
        self._own = References(
            utterances.latents, utterances.offset, utterances.length, _by_speaker(self._chosen, self._speaker)
        )

    def __len__(self) -> int:
        """Return how many utterances are drawn from."""
        return len(self._chosen)

    @property
    def rows(self) -> list[int]:
        """Return the numbers, among all utterances, of those drawn from."""
        found: list[int] = self._chosen.tolist()
        return found

    @property
    def lengths(self) -> np.ndarray:
        """Return the latents of all utterances."""
        return self._length

    @property
    def device(self) -> torch.device:
        """Return where the tensors are."""
        return self._all.latents.device

    @property
    def speakers(self) -> int:
        """How many speakers are drawn from."""
        return len(self._own.by_speaker)

    def draw(self, step: int, *, longest: int | None = None) -> tuple[Inputs, Targets]:
        """Return the batch of a step; ``longest`` leaves out longer whole utterances (easy ones first)."""
        options = self._options
        rng = np.random.default_rng((self._seed, step))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        if rng.random() < options.whole and self._buckets:
            buckets = [bucket for bucket in self._buckets if longest is None or bucket[0] <= longest] or self._buckets[
                :1
            ]
            share = np.array([size * self._weight[rows].sum() for size, rows in buckets])
            size, pool = buckets[int(rng.choice(len(buckets), p=share / share.sum()))]
            if rng.random() < options.long_padding:
                size = options.buckets[-1]
            rows = self._choice(pool, max(2, options.frames // size), rng)
            start = np.zeros(len(rows), dtype=np.int64)
        else:
            size = int(rng.choice(options.crop_lengths))
            rows = self._choice(self._chosen, max(2, options.frames // (size + size // 2)), rng)
            start = np.array([rng.choice([s for s in CROP_STARTS if s == 0 or s < n]) for n in self._length[rows]])
        return self._assemble(rows, start, size, rng, generator)

    def fixed(self, rows: Sequence[int], size: int, *, seed: int) -> tuple[Inputs, Targets]:
        """Return the same whole utterances at every call, for measuring; ``rows`` count within the split."""
        return self.whole(self._chosen[np.asarray(rows)], size, seed=seed)

    def whole(self, rows: Sequence[int] | np.ndarray, size: int, *, seed: int) -> tuple[Inputs, Targets]:
        """Return whole utterances by their numbers among all, with text and reference, in ``size`` latents."""
        rng = np.random.default_rng((self._seed, seed))
        generator = torch.Generator().manual_seed(seed)
        begin = np.zeros(len(rows), dtype=np.int64)
        return self._assemble(np.asarray(rows), begin, size, rng, generator, dropout=0.0)

    def within(self, longest: int) -> list[int]:
        """Return which utterances of the split, counted within it, have at most ``longest`` latents."""
        return np.flatnonzero(self._length[self._chosen] <= longest).tolist()

    def _assemble(
        self,
        rows: np.ndarray,
        start: np.ndarray,
        size: int,
        rng: np.random.Generator,
        generator: torch.Generator,
        dropout: float | None = None,
    ) -> tuple[Inputs, Targets]:
        options, data = self._options, self._all
        device = data.latents.device
        dropout = options.dropout if dropout is None else dropout
        row, begin = torch.from_numpy(rows).to(device), torch.from_numpy(start).to(device)
        bytes_, sounds = _rounded(int(data.bytes[row].max())), max(1, int(data.sounds[row].max()))
        places = torch.arange(size, device=device)
        inside = begin[:, None] + places < data.length[row][:, None]
        clean = self._frames(data.latents, data.offset[row] + begin, inside)
        labels = torch.where(
            inside[..., None],
            data.labels[((data.offset[row] + begin)[:, None] + places).clamp(max=len(data.labels) - 1)],
            SILENT,
        )

        draws = _Draws(generator, device)
        t = torch.where(
            draws.uniform(len(rows)) < 0.5, draws.uniform(len(rows)), torch.sigmoid(draws.normal(len(rows)) + 0.4)
        )
        noisy = draws.normal(len(rows), size, clean.shape[2])
        mix = t[:, None, None]
        seen = torch.arange(bytes_, device=device) < data.bytes[row][:, None]
        speaker, speaker_mask = self._references(rows, rng, draws)
        prefix = prefix_mask = None
        if longest := int(start.max()):
            before = torch.arange(longest, device=device) < begin[:, None]
            known = self._frames(data.latents, data.offset[row], before)
            known = known + before[..., None] * draws.uniform(len(rows), 1, 1) * options.condition_noise * draws.normal(
                *known.shape
            )
            prefix, prefix_mask = self._patches(known), before[:, :: self._patch]
        inputs = Inputs(
            x=(1 - mix) * clean + mix * noisy,
            t=t,
            start=begin,
            ids=_widened(data.ids[row, :bytes_], bytes_, 0).long(),
            text_mask=seen & (draws.uniform(len(rows), 1) >= dropout),
            speaker=speaker,
            speaker_mask=speaker_mask & (draws.uniform(len(rows), 1) >= dropout),
            prefix=prefix,
            prefix_mask=prefix_mask,
        )
        targets = Targets(
            velocity=noisy - clean,
            frame_weight=torch.where(inside, 1.0, options.tail_weight),
            time=begin[:, None] + places + 0.5,
            labels=labels.long(),
            centres=_widened(data.centres[row, :bytes_], bytes_, -1),
            phones=data.phones[row, :sounds].long(),
            sounds=data.sounds[row],
        )
        return inputs, targets

    def _references(self, rows: np.ndarray, rng: np.random.Generator, draws: _Draws) -> tuple[Tensor, Tensor]:
        """Patches and patch mask of a reference of every row's speaker: another utterance, or an encoded clip."""
        options, device = self._options, self._all.latents.device
        low, high = options.reference
        size = min(_rounded(int(rng.integers(low, high + 1))), high // self._patch * self._patch)
        picks = [self._pick(int(row), rng) for row in rows]
        places = torch.arange(size, device=device)
        clip = torch.zeros(len(rows), size, self._all.latents.shape[1], device=device)
        mask = torch.zeros(len(rows), size, dtype=torch.bool, device=device)
        for source in (self._own, self._encoded):
            mine = np.array([picked is source for picked, _ in picks])
            if source is None or not mine.any():
                continue
            chosen = torch.tensor([clip_ for (picked, clip_) in picks if picked is source], device=device)
            length = source.length[chosen]
            room = (length - size).clamp(min=0)
            begin = (draws.uniform(len(chosen)) * (room + 1)).long().clamp(max=int(room.max()))
            begin = torch.minimum(begin, room)
            inside = begin[:, None] + places < length[:, None]
            where = torch.from_numpy(mine).to(device)
            clip[where] = self._frames(source.latents, source.offset[chosen] + begin, inside)
            mask[where] = inside
        noise = draws.uniform(len(rows), 1, 1) * options.condition_noise * draws.normal(*clip.shape)
        return self._patches(clip + mask[..., None] * noise), mask[:, :: self._patch]

    def _pick(self, row: int, rng: np.random.Generator) -> tuple[References, int]:
        speaker = int(self._speaker[row])
        if self._encoded is not None and speaker in self._encoded.by_speaker and rng.random() < self._options.encoded:
            return self._encoded, int(rng.choice(self._encoded.by_speaker[speaker]))
        others = self._own.by_speaker[speaker]
        other = int(rng.choice(others))
        if other == row and len(others) > 1:
            other = int(others[(int(np.searchsorted(others, row)) + 1) % len(others)])
        return self._own, other

    def _frames(self, latents: Tensor, first: Tensor, inside: Tensor) -> Tensor:
        """``inside.shape[1]`` latents from ``first`` on, zeros where not ``inside``; [rows, n, 80] f32."""
        places = first[:, None] + torch.arange(inside.shape[1], device=first.device)
        return latents[places.clamp(max=len(latents) - 1)].float() * inside[..., None]

    def _patches(self, latents: Tensor) -> Tensor:
        return latents.reshape(len(latents), -1, self._patch * latents.shape[2])

    def _choice(self, pool: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        weight = self._weight[pool]
        drawn: np.ndarray = rng.choice(pool, count, p=weight / weight.sum())
        return drawn

    def _balanced(self) -> np.ndarray:
        """How often every utterance is drawn, relative to the others; [utterances]."""
        count = np.bincount(self._speaker[self._chosen], minlength=int(self._speaker.max()) + 1)
        weight: np.ndarray = np.maximum(count, 1)[self._speaker] ** -self._options.balance
        return weight

    def _paced(self) -> np.ndarray:
        """Speakers whose pace is near the median: the text encoder, which places bytes in time, knows no speaker."""
        data = self._all
        pace = (data.length / data.bytes).cpu().numpy()
        speakers = np.unique(self._speaker)
        of_speaker = np.array([np.median(pace[self._speaker == speaker]) for speaker in speakers])
        ratio = of_speaker / np.median(of_speaker)
        kept: np.ndarray = speakers[(ratio >= self._options.faster) & (ratio <= self._options.slower)]
        return kept


def _rounded(size: int) -> int:
    """Round a length up, so that few different shapes occur: every new one costs preparation."""
    return -(-size // _SHAPE_STEP) * _SHAPE_STEP


def _widened(rows: Tensor, width: int, value: float) -> Tensor:
    return F.pad(rows, (0, width - rows.shape[1]), value=value)


def _by_speaker(rows: np.ndarray, speaker: np.ndarray) -> dict[int, np.ndarray]:
    return {int(name): rows[speaker[rows] == name] for name in np.unique(speaker[rows])}
