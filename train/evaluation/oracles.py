"""What do the computed latents lose? Their spectra and their pitch put into speech without any network, and judged.

``python -m train.evaluation.oracles --work RUN`` prints the mean predicted opinion (DistillMOS) of

- the teacher's recordings;
- the recordings with their own phases and fine structure, and the loudness in mel bands that the latents tell: what is
  lost by so few components;
- pulses and noise with that loudness, the pulses following the latents' phase (``follow`` 1) or the pitch alone (0),
  voiced below 4 kHz: what a decoder of this kind starts from, with nothing learnt.

``make judge`` installs what it needs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from echo.model.autoencoder.history import History
from echo.model.autoencoder.mel import FLOOR
from echo.model.autoencoder.spectral import SpectralDecoder
from echo.types import Audio
from train.evaluation.decoding import chosen
from train.evaluation.judges.opinion import DistillMos
from train.tiny.codec import SpectralShape
from train.tiny.codec_model import embedded
from train.tiny.corpus import Corpus
from train.tiny.latents import LATENT_SIZE, SUB_HOP, Analysis, mel_filters
from train.tiny.start import ANALYSIS

_FFT = 1_024
#: Hertz between which voiced speech turns from pulses to noise.
_TURN = (4_000.0, 6_000.0)
_RATE = 22_050


def with_latents_loudness(samples: Audio, analysis: Analysis) -> Audio:
    """The recording, its loudness per mel band changed to what its latents tell."""
    wanted = analysis.mel(analysis.latents(samples))
    own = analysis.analyse(samples).mel
    signal = torch.zeros(len(own) * SUB_HOP)
    signal[: len(samples)] = torch.as_tensor(samples)
    window = torch.hann_window(_FFT)
    spectrum = torch.stft(signal, _FFT, SUB_HOP, window=window, return_complex=True)
    gain = _per_bin(wanted.clamp(min=0.0) - own, analysis)
    spectrum[:, : len(gain)] *= gain.T.exp()
    made: Audio = torch.istft(spectrum, _FFT, SUB_HOP, window=window, length=len(signal)).numpy()
    return made[: len(samples)]


def from_source(latents: Tensor, analysis: Analysis, *, follow: float) -> Audio:
    """Pulses and noise with the loudness that latents ``[n, 80]`` tell, at 22.05 kHz."""
    config = replace(SpectralShape().config(), dim=8, layers=0, context_layers=0)
    config = replace(config, source=replace(config.source, follow=follow))
    decoder = SpectralDecoder(config, LATENT_SIZE)
    z_q = embedded(latents[None], LATENT_SIZE)
    history = History()
    pulses, noise = decoder._excitation(z_q, history)
    voicing, _ = decoder._borders(z_q, config.source, History())
    bins = torch.arange(_FFT // 2) * _RATE / _FFT
    voiced = voicing[0, :, None] * (1.0 - (bins - _TURN[0]) / (_TURN[1] - _TURN[0])).clamp(0.0, 1.0)
    mixed = pulses[0] * voiced + 0.2 * noise[0] * (1.0 - voiced.square()).sqrt()
    filters = mel_filters(analysis.bands)[: _FFT // 2]
    heard = (mixed.abs().square() @ filters + 1e-9).log() * 0.5
    power = ((2.0 * analysis.mel(latents)).exp() - 1.0).clamp(min=0.0) * FLOOR
    # A frame is centred one hop and a half before the end of its sub-frame, the analysis two.
    wanted = (power + 1e-12).log() * 0.5
    wanted = torch.cat((wanted[:1], wanted[:-1]))
    gain = _per_bin(wanted - heard, analysis)[:, : _FFT // 2]
    known = mel_filters(analysis.bands)[: _FFT // 2].sum(1) > 0  # the latents have nothing above the last band
    sound: Audio = decoder.sound((mixed * gain.exp() * known)[None], History(), oversampling=1)[0].detach().numpy()
    return sound


def _per_bin(bands: Tensor, analysis: Analysis) -> Tensor:
    """Values per mel band ``[frames, bands]`` as values per bin ``[frames, 513]``."""
    filters = mel_filters(analysis.bands)
    weights = filters / filters.sum(1, keepdim=True).clamp(min=1e-6)
    return bands @ weights.T


def main(arguments: Sequence[str] | None = None) -> None:
    """Judge held-out utterances of a run's corpus."""
    parser = argparse.ArgumentParser(prog="python -m train.evaluation.oracles", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of the run")
    parser.add_argument("--utterances", type=int, default=12)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    judge, analysis = DistillMos(), Analysis.load(given.work / ANALYSIS)
    recordings = chosen(Corpus.open(given.work / "corpus"), given.utterances)
    found: dict[str, list[float]] = {}
    for one in recordings:
        latents = analysis.latents(one.samples)
        sounds = {
            "teacher": one.samples,
            "the latents' loudness": with_latents_loudness(one.samples, analysis),
            "pulses by phase, and noise": from_source(latents, analysis, follow=1.0),
            "pulses by pitch, and noise": from_source(latents, analysis, follow=0.0),
        }
        for name, sound in sounds.items():
            found.setdefault(name, []).append(judge(np.asarray(sound, np.float32)))
    for name, opinions in found.items():
        error = float(np.std(opinions) / len(opinions) ** 0.5)
        print(json.dumps({"what": name, "opinion": round(float(np.mean(opinions)), 2), "error": round(error, 2)}))


if __name__ == "__main__":
    main()
