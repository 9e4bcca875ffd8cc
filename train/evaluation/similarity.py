"""Does the output sound like its speaker? An embedding of voices, and the ranking of one clip among ten."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy.cluster.vq import kmeans2
from scipy.fft import dct
from scipy.linalg import eigh

from echo.files import atomic_write
from echo.types import Audio
from train.evaluation.features import BANDS, Mel, mel, speech_frames
from train.evaluation.heldout import Speech
from train.evaluation.pitch import Contour, contour

Matrix = npt.NDArray[np.float64]
Vector = npt.NDArray[np.float64]

#: An output is compared with its own reference clip and nine others.
CHOICES = 10
#: Cepstra that say what the vocal tract looks like; those above follow single harmonics.
_CEPSTRA = 20
#: Kinds of sounds that are compared separately, so that it matters less what is said.
_KINDS = 16
#: So many frames of a kind count as much as the prior that there is nothing special about this voice.
_PRIOR = 6.0
_DIMENSIONS = 32
#: Share of each feature's own variance in the within-speaker scatter.
_SHRINK = 0.3
#: Recordings of a speaker that the embedding is fitted on, each also as through a poor codec.
_PER_SPEAKER = 24
_CLUSTERED_FRAMES = 20_000


@dataclass(frozen=True, slots=True, eq=False)
class Sounds:
    """Kinds of sounds: centres [kinds, cepstra] of frames normalised by ``mean`` and ``spread`` [cepstra]."""

    mean: Vector
    spread: Vector
    centres: Matrix

    @classmethod
    def cluster(cls, frames: Matrix) -> Self:
        """Find the kinds among cepstra [frames, cepstra]."""
        mean, spread = frames.mean(0), frames.std(0) + 1e-6
        chosen = np.random.default_rng(0).permutation(len(frames))[:_CLUSTERED_FRAMES]
        centres, _ = kmeans2((frames[chosen] - mean) / spread, _KINDS, iter=15, minit="++", rng=0)
        return cls(mean, spread, centres)

    def statistics(self, spectrum: Mel, pitch: Contour) -> Vector:
        """How a voice makes each kind of sound, its cepstra on the whole, and its pitch; the level does not matter."""
        frames = cepstra(spectrum)
        offsets = np.zeros_like(self.centres)
        overall = np.zeros(2 * _CEPSTRA)
        if len(frames):
            normal = (frames - self.mean) / self.spread
            distance = np.square(normal[:, None] - self.centres[None]).sum(-1)
            weights = np.exp((distance.min(1, keepdims=True) - distance) / 4)
            weights /= weights.sum(1, keepdims=True)
            counts = weights.sum(0)[:, None]
            offsets = (weights.T @ normal - counts * self.centres) / (counts + _PRIOR)
            overall = np.concatenate([frames.mean(0), frames.std(0)])
        voiced = np.log(pitch[pitch > 0]) if (pitch > 0).any() else np.zeros(1)
        melody = [np.median(voiced), np.std(voiced), *np.quantile(voiced, (0.1, 0.9))]
        return np.concatenate([offsets.ravel(), overall, melody])


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """Statistics of a voice, projected to where speakers differ and their recordings do not (linear discriminants)."""

    sounds: Sounds
    mean: Vector
    projection: Matrix

    def __call__(self, samples: Audio) -> Vector:
        """The place of a clip at the corpus's rate, [dimensions]; see ``likeness``."""
        return self.place(mel(samples), contour(samples))

    def place(self, spectrum: Mel, pitch: Contour) -> Vector:
        """The place of a voice with this spectrum and pitch."""
        vector: Vector = (self.sounds.statistics(spectrum, pitch) - self.mean) @ self.projection
        return vector

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that name the embedding."""
        return hashlib.sha256(np.round(self.projection, 5).tobytes()).hexdigest()[:12]

    def save(self, path: Path) -> None:
        """Write it as ``.npz``."""
        # Through an open file, because numpy would add an extension to a name.
        with atomic_write(path) as unfinished, unfinished.open("wb") as file:
            np.savez(
                file,
                mean=self.mean,
                projection=self.projection,
                sound_mean=self.sounds.mean,
                sound_spread=self.sounds.spread,
                centres=self.sounds.centres,
            )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what ``save`` wrote."""
        with np.load(path) as found:
            sounds = Sounds(found["sound_mean"], found["sound_spread"], found["centres"])
            return cls(sounds, found["mean"], found["projection"])


def cepstra(spectrum: Mel) -> Matrix:
    """Cepstra of the speech in a mel spectrum, without the one that is the level, [frames, cepstra]."""
    return np.asarray(dct(spectrum[speech_frames(spectrum)], norm="ortho", axis=1)[:, 1 : _CEPSTRA + 1], np.float64)


def fit(corpus: Speech, *, seed: int = 0) -> Embedding:
    """Fit the embedding on the training part of a corpus."""
    rng = np.random.default_rng(seed)
    views: list[tuple[Mel, Contour]] = []
    labels: list[int] = []
    counts: dict[str, int] = {}
    for index in rng.permutation(np.asarray(corpus.split("train"), np.int64)):
        recording = corpus[int(index)]
        counts[recording.speaker] = counts.get(recording.speaker, 0) + 1
        if counts[recording.speaker] <= _PER_SPEAKER:
            spectrum, pitch = mel(recording.samples), contour(recording.samples)
            views += [(spectrum, pitch), (roughened(spectrum, rng), pitch)]
            labels += [list(counts).index(recording.speaker)] * 2
    sounds = Sounds.cluster(np.concatenate([cepstra(spectrum) for spectrum, _ in views]))
    rows = np.stack([sounds.statistics(*view) for view in views])
    return Embedding(sounds, *discriminants(rows, np.asarray(labels)))


def discriminants(rows: Matrix, labels: npt.NDArray[np.int64]) -> tuple[Vector, Matrix]:
    """Mean and linear discriminants of [rows, features]: most difference between labels, equal spread within."""
    known, places = np.unique(labels, return_inverse=True)
    centres = np.stack([rows[labels == label].mean(0) for label in known])
    within = np.cov((rows - centres[places]).T)
    within = (1 - _SHRINK) * within + _SHRINK * np.diag(np.diag(within)) + 1e-9 * np.eye(len(within))
    values, vectors = eigh(np.cov(centres.T), within)
    best = np.argsort(values)[::-1][: min(_DIMENSIONS, len(known) - 1)]
    # As much of a direction as is the speaker: v / (v + 1) of its variance, the weight of the best linear estimate.
    return rows.mean(0), vectors[:, best] * np.sqrt(values[best] / (values[best] + 1))


def likeness(one: Vector, other: Vector) -> float:
    """0 for the same place, about -0.5 for two recordings of one speaker, less for different ones."""
    return -float(np.linalg.norm(one - other) / np.sqrt(2 * len(one)))


def rank(output: Vector, own: Vector, others: Sequence[Vector]) -> int:
    """Place of the own reference clip among all when sorted by likeness to the output; 1 is best."""
    return 1 + sum(likeness(output, other) >= likeness(output, own) for other in others)


def rivals(speakers: Sequence[str], own: str, *, seed: int, count: int = CHOICES - 1) -> list[str]:
    """Other speakers to compare with, drawn at random; raises ValueError when there are too few."""
    pool = sorted(set(speakers) - {own})
    if len(pool) < count:
        raise ValueError(f"A ranking needs {count} other speakers; the set has {len(pool)}.")
    return [pool[i] for i in np.random.default_rng(seed).permutation(len(pool))[:count]]


def require_rivals(speakers: Iterable[str]) -> None:
    """Raise ValueError where a set has too few speakers for a ranking."""
    if (found := len(set(speakers))) < CHOICES:
        raise ValueError(f"A ranking needs {CHOICES} speakers, and the set has {found}: ask for more --texts.")


def roughened(spectrum: Mel, rng: np.random.Generator) -> Mel:
    """A spectrum as through a poor codec: other band gains, a noise floor, speckle."""
    gains = rng.normal(0, 0.7, 4) @ np.cos(np.pi * np.outer(np.arange(1, 5), np.arange(BANDS) + 0.5) / BANDS)
    made = np.logaddexp(spectrum + gains, spectrum.max(initial=-16.0) - rng.uniform(5, 10))
    return np.asarray(made + rng.uniform(0, 0.8) * rng.normal(0, 1, made.shape), np.float32)
