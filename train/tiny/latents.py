"""Analytic latents: what is said, how loud, how high and in which phase, computed straight from the samples.

The transformer can train on them before any codec exists, and the codec trains to decode and to reproduce them. One
latent of 80 numbers stands for 1,024 samples of 22.05 kHz (2,048 of the codec's 44.1 kHz), cut into four sub-frames:

====== ==============================================================================================================
0-67   log-mel spectra of the four sub-frames, as 68 partly whitened principal components
68-69  voicing, 0 to 1, at the end of the second and of the fourth sub-frame
70-71  1.5 · voicing · log2(f0 / 130 Hz) at the same places
72-79  cosine, sine at the end of every sub-frame: of the fundamental's phase times voicing, and where speech is not
       voiced of the phase at 3.5 kHz, which gives the decoder's hiss something random to hang on; all zeros in an
       analysis without phases
====== ==============================================================================================================

Silence is all zeros.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from echo.files import atomic_write
from echo.model.autoencoder import mel
from train.tiny.corpus import RATE, Recording

LATENT_SIZE = 80
HOP = 1_024
"""Samples per latent at ``RATE``."""
SUB_FRAMES = 4
SUB_HOP = HOP // SUB_FRAMES
MEL = slice(0, 68)
VOICING = slice(68, 70)
PITCH = slice(70, 72)
PHASE = slice(72, 80)

_MEL_WINDOW = 512
_WINDOW = 1_024  # samples around the end of a sub-frame for pitch and phase
_PITCH_RANGE = (67.0, 400.0)  # Hz
_PITCH_FFT = 2_048
_FIRST_PEAK = 0.88  # the first peak this close to the highest one is the period, which avoids octaves below
_HISS_HZ, _HISS_WINDOW = 3_500.0, 256
_WHITENING = 0.55  # 1 would make unimportant components as loud as the first
_REFERENCE_HZ = 130.0
_SPEECH = 0.5  # mean log-mel above which a sub-frame counts as speech


@dataclass(frozen=True, slots=True)
class Bands:
    """The mel bands of an analysis.

    Attributes:
        count: How many there are.
        highest: Where the last one ends, in hertz.
    """

    count: int = 40
    highest: float = 8_000.0


NARROW = Bands()
"""For teachers with nothing above 8 kHz, such as flite."""
WIDE = Bands(46, 11_000.0)
"""For teachers that fill all of 22.05 kHz."""


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """What ``analyse`` measures, one row per sub-frame of 256 samples.

    Attributes:
        mel: Log-mel spectrum above silence, natural logarithm of amplitude ``[n, bands]``; 0 is silence.
        energy: 0 in silence, 1 in speech ``[n]``.
        voicing: 0 to ``energy``, at the end of the sub-frame ``[n]``.
        pitch: Fundamental frequency in Hz there, whatever the voicing ``[n]``.
        phase: Its phase there in radians ``[n]``.
        hiss: The phase at 3.5 kHz there in radians ``[n]``.
    """

    mel: Tensor
    energy: Tensor
    voicing: Tensor
    pitch: Tensor
    phase: Tensor
    hiss: Tensor


def analyse(samples: NDArray[np.float32] | Tensor, bands: Bands = NARROW) -> Frames:
    """Measure mono samples ``[n]`` at 22.05 kHz; they are completed with zeros to whole latents."""
    signal = torch.as_tensor(samples, dtype=torch.float32)
    signal = F.pad(signal, (0, -signal.shape[0] % HOP))
    count = signal.shape[0] // SUB_HOP
    around = _windows(signal, _WINDOW, ahead=_WINDOW // 2, count=count) * torch.hann_window(_WINDOW)
    power = around.square().sum(1) / torch.hann_window(_WINDOW).square().sum()
    energy = ((power.sqrt() - 0.002) / 0.006).clamp(0.0, 1.0)
    pitch, periodicity = _pitch(around)
    hiss = _windows(signal, _HISS_WINDOW, ahead=_HISS_WINDOW // 2, count=count) * torch.hann_window(_HISS_WINDOW)
    return Frames(
        mel=mel.log_mel(_windows(signal, _MEL_WINDOW, ahead=0, count=count), RATE, bands.count, bands.highest),
        energy=energy,
        voicing=energy * ((periodicity - 0.45) / 0.3).clamp(0.0, 1.0),
        pitch=pitch,
        phase=_phase(around, pitch),
        hiss=_phase(hiss, torch.full((count,), _HISS_HZ)),
    )


class Analysis:
    """The principal components of log-mel spectra, fitted once, and the latents that they make.

    Attributes:
        components: ``[4 · bands, 68]``, from the log-mel spectra of a latent to its first 68 numbers.
        inverse: ``[68, 4 · bands]``, the way back.
        bands: Of the mel spectra.
        phases: Whether the latents tell phases.
    """

    def __init__(self, components: Tensor, inverse: Tensor, bands: Bands = NARROW, *, phases: bool = True) -> None:
        self.components = components
        self.inverse = inverse
        self.bands = bands
        self.phases = phases

    @classmethod
    def fit(cls, recordings: Iterable[Recording], bands: Bands = NARROW, *, phases: bool = True) -> Self:
        """Fit the components to the speech in ``recordings`` (some 300 of varied speakers suffice)."""
        return cls.fit_frames((analyse(recording.samples, bands) for recording in recordings), bands, phases=phases)

    @classmethod
    def fit_frames(cls, frames: Iterable[Frames], bands: Bands = NARROW, *, phases: bool = True) -> Self:
        """Fit the components to speech that was analysed in these bands."""
        values_per_latent = SUB_FRAMES * bands.count
        moment = torch.zeros(values_per_latent, values_per_latent, dtype=torch.float64)
        count = 0
        for part in frames:
            rows = part.mel.reshape(-1, values_per_latent).double()
            rows = rows[rows.mean(1) > _SPEECH]
            moment += rows.T @ rows
            count += rows.shape[0]
        # The second moment, not the covariance: silence has to stay at zero.
        values, vectors = torch.linalg.eigh(moment / max(count, 1))
        size = MEL.stop - MEL.start
        # A component that hardly varies where there is little speech, is not made louder than one of 0.1 neper.
        values, vectors = values.flip(0)[:size].clamp(min=0.01), vectors.flip(1)[:, :size]
        # The sign of an eigenvector is arbitrary; fixed here so that any machine fits the same latents.
        vectors = vectors * torch.where(vectors.sum(0) < 0, -1.0, 1.0)
        scales = values.sqrt() ** -_WHITENING
        scales = scales / ((scales.square() * values).mean().sqrt())
        components, inverse = (vectors * scales).float().contiguous(), (vectors / scales).T.float().contiguous()
        return cls(components, inverse, bands, phases=phases)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what ``save`` wrote."""
        state = load_file(path)
        highest = float(state["highest_hz"]) if "highest_hz" in state else NARROW.highest
        bands = Bands(state["components"].shape[0] // SUB_FRAMES, highest)
        return cls(state["components"], state["inverse"], bands, phases=bool(state.get("phases", True)))

    def save(self, path: Path) -> None:
        """Write the components to a small safetensors file."""
        with atomic_write(path) as unfinished:
            highest, phases = torch.tensor(self.bands.highest), torch.tensor(self.phases)
            save_file(
                {"components": self.components, "inverse": self.inverse, "highest_hz": highest, "phases": phases},
                unfinished,
            )

    def same_as(self, other: Analysis) -> bool:
        """Whether latents of both mean the same."""
        shapes = self.components.shape, other.components.shape
        same_kind = shapes[0] == shapes[1] and self.bands == other.bands and self.phases == other.phases
        return same_kind and torch.allclose(self.components, other.components, atol=1e-6)

    def latents(self, samples_22k: NDArray[np.float32] | Tensor) -> Tensor:
        """Latents ``[ceil(n / 1024), 80]`` float32 of mono samples ``[n]`` at 22.05 kHz."""
        return self.from_frames(self.analyse(samples_22k))

    def analyse(self, samples_22k: NDArray[np.float32] | Tensor) -> Frames:
        """Measure mono samples in the bands of this analysis; see ``analyse``."""
        return analyse(samples_22k, self.bands)

    def from_frames(self, frames: Frames) -> Tensor:
        """Latents ``[n / 4, 80]`` of ``n`` analysed sub-frames."""
        voicing, hissing = frames.voicing, frames.energy - frames.voicing
        pitch = 1.5 * voicing * torch.log2(frames.pitch / _REFERENCE_HZ)
        angles = torch.stack((frames.phase, frames.hiss), 1)
        weights = torch.stack((voicing, hissing), 1)
        phase = torch.stack(((weights * angles.cos()).sum(1), (weights * angles.sin()).sum(1)), 1)
        if not self.phases:
            phase = torch.zeros_like(phase)
        return torch.cat(
            (
                frames.mel.reshape(-1, SUB_FRAMES * self.bands.count) @ self.components,
                voicing.reshape(-1, SUB_FRAMES)[:, 1::2],
                pitch.reshape(-1, SUB_FRAMES)[:, 1::2],
                phase.reshape(-1, 2 * SUB_FRAMES),
            ),
            1,
        )

    def mel(self, latents: Tensor) -> Tensor:
        """Log-mel spectra ``[4 n, bands]`` of latents ``[n, 80]``; above 0 where there is speech."""
        return (latents[..., MEL] @ self.inverse).reshape(-1, self.bands.count)


def pitch_of(latents: Tensor) -> tuple[Tensor, Tensor]:
    """(f0 in Hz, voicing 0 to 1), each ``[2 n]``, that latents ``[n, 80]`` tell; f0 means nothing at low voicing."""
    voicing = latents[:, VOICING].flatten().clamp(0.0, 1.0)
    octaves = latents[:, PITCH].flatten() / (1.5 * voicing.clamp(min=0.1))
    return _REFERENCE_HZ * 2.0 ** octaves.clamp(-1.5, 2.0), voicing


def mel_filters(bands: Bands = NARROW) -> Tensor:
    """The mel bands over the bins of a 1,024-point spectrum ``[513, bands]``."""
    return mel.mel_filters(bands.count, bands.highest, RATE / (2 * _MEL_WINDOW), _MEL_WINDOW + 1)


def _windows(signal: Tensor, length: int, *, ahead: int, count: int) -> Tensor:
    """Pieces [count, length] that end ``ahead`` samples after the end of each sub-frame."""
    padded = F.pad(signal, (length - ahead - SUB_HOP, ahead))
    return padded.unfold(0, length, SUB_HOP)[:count]


def _pitch(windows: Tensor) -> tuple[Tensor, Tensor]:
    """f0 in Hz and periodicity (0 to about 1) of windowed pieces, by autocorrelation."""
    window = torch.hann_window(_WINDOW)
    raw = torch.fft.irfft(torch.fft.rfft(windows, _PITCH_FFT).abs().square(), _PITCH_FFT)
    own = torch.fft.irfft(torch.fft.rfft(window, _PITCH_FFT).abs().square(), _PITCH_FFT)
    first, last = int(RATE / _PITCH_RANGE[1]), int(RATE / _PITCH_RANGE[0]) + 1
    # Divided by the window's own autocorrelation, so that long periods are not put at a disadvantage.
    lags = raw[:, : last + 2] / raw[:, :1].clamp(min=1e-9) / (own[: last + 2] / own[0])
    inner = lags[:, first : last + 1]
    peak = (inner >= lags[:, first - 1 : last]) & (inner > lags[:, first + 1 : last + 2])
    height = torch.where(peak, inner, inner.new_tensor(-1.0))
    best = height.amax(1, keepdim=True)
    place = (height >= _FIRST_PEAK * best).int().argmax(1) + first
    before, at, after = (lags.gather(1, place[:, None] + shift)[:, 0] for shift in (-1, 0, 1))
    bend = (2.0 * at - before - after).clamp(min=1e-6)
    period = place + (0.5 * (after - before) / bend).clamp(-0.5, 0.5)
    found = best[:, 0] > 0.0
    pitch = torch.where(found, RATE / period, _REFERENCE_HZ)
    smooth = F.pad(pitch[None], (2, 2), mode="replicate")[0].unfold(0, 5, 1).median(1).values
    return smooth.clamp(*_PITCH_RANGE), at.where(found, torch.zeros_like(at)).clamp(0.0, 1.0)


def _phase(windows: Tensor, hertz: Tensor) -> Tensor:
    """Phase in radians, at the middle of each windowed piece [n, length], of the component at ``hertz`` [n]."""
    length = windows.shape[1]
    times = (torch.arange(length) - length // 2) / RATE
    angles = 2.0 * math.pi * hertz[:, None] * times
    return torch.atan2(-(windows * angles.sin()).sum(1), (windows * angles.cos()).sum(1))
