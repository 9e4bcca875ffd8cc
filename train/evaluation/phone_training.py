"""Trains the phone recogniser on teacher speech.

    python -m train.evaluation.phone_training CORPUS FILE [--steps 1000]

Seeded. Interrupted, it goes on from its last checkpoint, ``FILE`` with the suffix ``.partial``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from echo.files import atomic_write
from train.evaluation.features import BANDS, HOP, Mel, mel
from train.evaluation.heldout import Speech
from train.evaluation.phones import BLANK, SOUNDS, STRIDE, PhoneNet, PhoneRecogniser, normalised, sounds_of
from train.tiny.corpus import RATE, Corpus, Recording
from train.tiny.teacher.phones import Span

_RATE_OF_LEARNING = 2e-3
#: Weight of the frame classes, which the teachers' phone times give: they make CTC find its alignment at once.
_ALIGNED = 0.5
_LONGEST_S = 8.0
#: A batch is drawn from so many times as many recordings next to one another in length.
_NEAR = 6
#: Class index of every sound.
_INDEX = {symbol: place for place, symbol in enumerate(SOUNDS, 1)}


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long to train: steps of ``batch`` recordings, a checkpoint after every ``keep_every``."""

    steps: int = 1000
    batch: int = 24
    keep_every: int = 100
    seed: int = 0


def train(
    corpus: Speech, path: Path, schedule: Schedule | None = None, *, device: str = "cpu", quiet: bool = False
) -> PhoneRecogniser:
    """Train on the training part of a corpus and write the recogniser to ``path``."""
    schedule = schedule or Schedule()
    steps, seed = schedule.steps, schedule.seed
    torch.manual_seed(seed)
    shelf = Shelf(corpus)
    net = PhoneNet().to(device)
    optimiser = torch.optim.AdamW(net.parameters(), lr=_RATE_OF_LEARNING, weight_decay=0.01)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE_OF_LEARNING, total_steps=steps, pct_start=0.1)
    parts: dict[str, Any] = {"net": net, "optimiser": optimiser, "rates": rates}
    partial = path.with_suffix(".partial")
    begun = 0
    if partial.exists():
        kept = torch.load(partial, map_location=device, weights_only=True)
        begun = kept["step"]
        for name, part in parts.items():
            part.load_state_dict(kept[name])
    with tqdm(total=steps, initial=begun, desc="phone recogniser", disable=quiet) as progress:
        for step in range(begun, steps):
            rng = np.random.default_rng((seed, step))
            loss = batch_loss(net, shelf.draw(schedule.batch, rng), rng)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            rates.step()
            progress.update()
            if step % 20 == 0:
                progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
            if (step + 1) % schedule.keep_every == 0:
                with atomic_write(partial) as unfinished:
                    states = {name: part.state_dict() for name, part in parts.items()}
                    torch.save({"step": step + 1, **states}, unfinished)
    made = PhoneRecogniser(net.cpu(), {"steps": str(steps), "seed": str(seed), "recordings": str(len(shelf))})
    made.save(path)
    partial.unlink(missing_ok=True)
    return made


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """The mel spectrum of a recording, and its phones."""

    spectrum: Mel
    phones: tuple[Span, ...]

    @classmethod
    def of(cls, recording: Recording) -> Example:
        """Listen to a recording."""
        return cls(mel(recording.samples), recording.phones)


class Shelf:
    """The training part of a corpus by length; what has been read stays in memory, 14 kB a second."""

    def __init__(self, corpus: Speech) -> None:
        self._corpus = corpus
        found = [i for i in corpus.split("train") if corpus.seconds(i) < _LONGEST_S]
        self._indices = sorted(found, key=corpus.seconds)
        self._read: dict[int, Example] = {}

    def __len__(self) -> int:
        return len(self._indices)

    def draw(self, count: int, rng: np.random.Generator) -> list[Example]:
        """Recordings of about the same length, so that little of a batch is padding."""
        near = min(_NEAR * count, len(self))
        start = int(rng.integers(0, len(self) - near + 1))
        return [self._example(self._indices[start + int(i)]) for i in rng.integers(0, near, count)]

    def _example(self, index: int) -> Example:
        if index not in self._read:
            self._read[index] = Example.of(self._corpus[index])
        return self._read[index]


def batch_loss(net: PhoneNet, batch: Sequence[Example], rng: np.random.Generator) -> Tensor:
    """CTC over the sounds, and cross-entropy of the frame classes."""
    device = next(net.parameters()).device
    spectra = [normalised(roughened(example.spectrum, rng)) for example in batch]
    frames = [-(-len(spectrum) // STRIDE) for spectrum in spectra]
    padded = torch.zeros(len(batch), STRIDE * max(frames), BANDS)
    classes = torch.full((len(batch), max(frames)), -100)
    for row, (example, spectrum, count) in enumerate(zip(batch, spectra, frames, strict=True)):
        padded[row, : len(spectrum)] = torch.from_numpy(spectrum)
        classes[row, :count] = torch.from_numpy(frame_classes(example.phones, count))
    said = [[_INDEX[symbol] for symbol in sounds_of(example.phones)] for example in batch]
    read, aligned = net(padded.to(device))
    ctc = nn.functional.ctc_loss(
        read.float().log_softmax(-1).transpose(0, 1),
        torch.tensor([index for one in said for index in one], device=device),
        torch.tensor(frames),
        torch.tensor([len(one) for one in said]),
        blank=BLANK,
        zero_infinity=True,
    )
    return ctc + _ALIGNED * nn.functional.cross_entropy(aligned.transpose(1, 2), classes.to(device))


def frame_classes(phones: Sequence[Span], frames: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The class that sounds in each frame of the output, blank in pauses."""
    classes = np.full(frames, BLANK, np.int64)
    for span in phones:
        first, last = (round(seconds * RATE / (HOP * STRIDE)) for seconds in (span.start, span.end))
        classes[first:last] = _INDEX.get(span.symbol, BLANK)
    return classes


def roughened(spectrum: Mel, rng: np.random.Generator) -> Mel:
    """A spectrum as through a poor codec or microphone, so that the recogniser hears the sounds and not the teacher.

    Band gains, a noise floor, speckle as of wrong phases, and masked bands and moments, each with some probability.
    """
    made = spectrum + rng.normal(0, 0.5, (1, BANDS))
    if rng.random() < 0.6:
        made = np.logaddexp(made, spectrum.max() - rng.uniform(3, 9) + rng.normal(0, 1.0, (1, BANDS)))
    if rng.random() < 0.6:
        made = made + rng.uniform(0, 1.0) * rng.normal(0, 1, made.shape)
    for _ in range(2):
        band, moment = rng.integers(0, BANDS - 5), rng.integers(0, max(1, len(made) - 8))
        made[:, band : band + rng.integers(0, 6)] = made.mean()
        made[moment : moment + rng.integers(0, 9)] = made.mean()
    return np.asarray(made, np.float32)


def main() -> None:
    """Train from the command line."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("corpus", type=Path)
    options.add_argument("file", type=Path)
    options.add_argument("--steps", type=int, default=Schedule().steps)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--device", default="cpu")
    options.add_argument("--threads", type=int, default=1)
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    schedule = Schedule(steps=given.steps, seed=given.seed)
    train(Corpus.open(given.corpus), given.file, schedule, device=given.device)


if __name__ == "__main__":
    main()
