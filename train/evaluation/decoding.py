"""How natural a decoder in training sounds: exact latents of held-out voices, decoded, beside the teacher.

``python -m train.evaluation.decoding --config CONFIG --work RUN`` reads the newest checkpoint of the run's decoder and
appends a line to ``RUN/codec/opinion.jsonl``: the step, and the mean predicted opinion (DistillMOS) of the teacher and
of the decoded latents. ``--every MINUTES`` goes on doing so whenever there is a newer checkpoint. ``make judge``
installs what it needs.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from echo.model.autoencoder import Autoencoder
from echo.types import SAMPLE_RATE, Audio
from train.evaluation.judges.opinion import DistillMos
from train.tiny import state
from train.tiny.codec import CodecOptions
from train.tiny.codec_model import embedded, trainable
from train.tiny.config import DEFAULT, load
from train.tiny.corpus import RATE, Corpus, Recording, Split
from train.tiny.latents import Analysis
from train.tiny.start import ANALYSIS

#: Seconds of the utterances that are judged.
_SHORTEST, _LONGEST = 2.5, 7.0


def decoder_of(folder: Path, options: CodecOptions) -> tuple[Autoencoder, int] | None:
    """The autoencoder with the decoder of a codec's folder, whose encoder may not exist yet, and the decoder's step."""
    found = state.load(folder / "decoder" / "checkpoint")
    if found is None:
        return None
    trained = state.under("decoder", found[0])
    weights = {key.removeprefix("path."): value for key, value in trained.items() if key.startswith("path.")}
    model = trainable(options.shape.config())
    model.load_state_dict(weights, strict=False)
    return model.requires_grad_(False).eval(), int(found[1]["step"])


class Speech(Protocol):
    """As much of a corpus as is needed to choose from it."""

    def __getitem__(self, index: int, /) -> Recording:
        """One recording."""
        ...

    def split(self, name: Split, /) -> Sequence[int]:
        """Numbers of the recordings of one part."""
        ...

    def seconds(self, index: int, /) -> float:
        """Duration of a recording."""
        ...

    def describe(self, index: int, /) -> tuple[str, str, str]:
        """Key, text and speaker of a recording."""
        ...


def chosen(corpus: Speech, count: int) -> list[Recording]:
    """Recordings of held-out speakers, each by another one as far as there are enough."""
    order: dict[str, list[int]] = {}
    for index in corpus.split("heldout_speaker"):
        if _SHORTEST <= corpus.seconds(index) <= _LONGEST:
            order.setdefault(corpus.describe(index)[2], []).append(index)
    rounds = [
        rows[turn]
        for turn in range(max(map(len, order.values()), default=0))
        for rows in order.values()
        if turn < len(rows)
    ]
    return [corpus[index] for index in rounds[:count]]


@torch.inference_mode()
def decoded(model: Autoencoder, latents: Tensor) -> Audio:
    """Samples at 22.05 kHz of latents ``[n, 80]``."""
    audio = model.decode_zq(embedded(latents[None], model.config.latent_dim))[0, 0].numpy()
    return np.asarray(soxr.resample(audio, SAMPLE_RATE, RATE), np.float32)


def main(arguments: Sequence[str] | None = None) -> None:
    """Judge once, or whenever there is a newer checkpoint."""
    parser = argparse.ArgumentParser(prog="python -m train.evaluation.decoding", description=__doc__)
    parser.add_argument("--config", type=Path, default=DEFAULT)
    parser.add_argument("--work", type=Path, required=True, help="folder of the run")
    parser.add_argument("--utterances", type=int, default=12)
    parser.add_argument("--every", type=float, default=0.0, help="minutes between two looks; 0 = once")
    parser.add_argument("--sounds", type=Path, help="keep what was judged here")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options, judge = load(given.config).codec, DistillMos()
    analysis, corpus = Analysis.load(given.work / ANALYSIS), Corpus.open(given.work / "corpus")
    recordings = chosen(corpus, given.utterances)
    if not recordings:
        raise SystemExit(f"{given.work / 'corpus'} has no recordings of held-out speakers yet.")
    latents = [analysis.latents(one.samples) for one in recordings]
    teacher = float(np.mean([judge(one.samples) for one in recordings]))
    last = -1
    while True:
        found = decoder_of(given.work / "codec", options)
        if found is not None and found[1] > last:
            model, last = found
            sounds = [decoded(model, rows) for rows in latents]
            opinions = [judge(one) for one in sounds]
            row = {
                "step": last,
                "utterances": len(opinions),
                "teacher": round(teacher, 3),
                "decoded": round(float(np.mean(opinions)), 3),
                "error": round(float(np.std(opinions) / len(opinions) ** 0.5), 3),
            }
            with (given.work / "codec" / "opinion.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
            if given.sounds:
                given.sounds.mkdir(parents=True, exist_ok=True)
                for one, sound in zip(recordings, sounds, strict=True):
                    soundfile.write(given.sounds / f"{one.key}.wav", sound, RATE)
        if not given.every:
            return
        time.sleep(given.every * 60)


if __name__ == "__main__":
    main()
