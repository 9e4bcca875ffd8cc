"""Reference clips through the codec's encoder, as the served model will get them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import soxr
import torch

from echo.model.autoencoder import Autoencoder
from echo.model.autoencoder.pca import Pca
from echo.model.autoencoder.speaker import speaker_latents
from echo.types import SAMPLE_RATE
from train.tiny.corpus import RATE, Corpus
from train.tiny.dit_batches import References

_SECONDS = 4.5
_SHORTEST = 1.0


def encoded_references(
    autoencoder: Autoencoder,
    pca: Pca,
    corpus: Corpus,
    speakers: Sequence[str],
    *,
    per_speaker: int,
    seed: int,
    device: torch.device,
) -> References:
    """Encode some recordings of every speaker of the training part.

    speakers  names in the order of the speaker numbers that batches use
    """
    autoencoder, pca = autoencoder.to(device), pca.to(device)
    rng = np.random.default_rng(seed)
    training = set(corpus.split("train"))
    clips: list[torch.Tensor] = []
    by_speaker: dict[int, np.ndarray] = {}
    for number, speaker in enumerate(speakers):
        mine = [i for i in corpus.of_speaker(speaker) if i in training and corpus.seconds(i) >= _SHORTEST]
        chosen = rng.permutation(mine)[:per_speaker]
        if len(chosen):
            by_speaker[number] = np.arange(len(clips), len(clips) + len(chosen))
        for index in chosen:
            samples = corpus[int(index)].samples[: int(_SECONDS * RATE)]
            audio = torch.from_numpy(soxr.resample(samples, RATE, SAMPLE_RATE)).to(device)
            clips.append(speaker_latents(autoencoder, pca, audio).latents.half().cpu())
    length = torch.tensor([len(clip) for clip in clips])
    return References(
        torch.cat(clips).to(device), (length.cumsum(0) - length).to(device), length.to(device), by_speaker
    )
