"""Makes another speaker of a recording with the WORLD vocoder: pitch, melody, vocal tract, brightness and breath."""

import importlib.machinery
import importlib.util
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.tiny.teacher.library import TeacherMissing

_FRAME_MS = 5.0
_LOWEST_HZ, _HIGHEST_HZ = 50.0, 420.0
"""Search range of the pitch of the natural voices; the shift comes afterwards."""
_KNOTS_HZ = (600.0, 1_700.0, 2_800.0, 4_500.0)
"""About where the first to third formant and everything above lie."""
_BREATH_FROM_HZ, _BREATH_FULL_HZ = 1_000.0, 4_000.0
"""Breath noise fills the upper bands; below, voiced speech stays periodic."""


@dataclass(frozen=True, slots=True)
class Shift:
    """How a voice differs from the one it is made of.

    Attributes:
        pitch: Factor on the fundamental frequency.
        melody: Factor on the excursions of the logarithmic pitch around its mean; below 1 is flatter.
        formants: Factors on the frequencies around 600, 1,700, 2,800 and from 4,500 Hz; above 1 is a smaller head.
        tilt: Brightness in decibels per octave around 1 kHz.
        breath: 0 keeps the voice's own noise; 1 would whisper the upper bands.
    """

    pitch: float
    melody: float = 1.0
    formants: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    tilt: float = 0.0
    breath: float = 0.0


class World:
    """The WORLD vocoder.

    Raises:
        TeacherMissing: The package pyworld is not installed.
    """

    def __init__(self) -> None:
        self._world = _extension()

    def shifted(self, samples: NDArray[np.float64], rate: int, shift: Shift) -> NDArray[np.float64]:
        """Speak the same with another voice at the same times.

        Args:
            samples: Mono, float64 ``[n]``.
            rate: Samples per second.
            shift: The other voice.

        Returns:
            Mono, float64 ``[n]``.
        """
        world = self._world
        coarse, times = world.dio(samples, rate, f0_floor=_LOWEST_HZ, f0_ceil=_HIGHEST_HZ, frame_period=_FRAME_MS)
        pitch = world.stonemask(samples, coarse, times, rate)
        envelope = world.cheaptrick(samples, pitch, times, rate)
        noise = world.d4c(samples, pitch, times, rate)
        frequencies = np.linspace(0.0, rate / 2, envelope.shape[1])
        tilt = 10 ** (shift.tilt / 10 * np.log2(np.maximum(frequencies, 100.0) / 1_000.0))
        breath = shift.breath * np.clip((frequencies - _BREATH_FROM_HZ) / (_BREATH_FULL_HZ - _BREATH_FROM_HZ), 0.0, 1.0)
        shifted = world.synthesize(
            _melody(pitch, shift),
            _stretched(envelope, frequencies, shift.formants) * tilt,
            np.clip(noise + breath * (1.0 - noise), 0.0, 1.0),
            rate,
            _FRAME_MS,
        )
        result: NDArray[np.float64] = np.zeros_like(samples)
        result[: len(shifted)] = shifted[: len(samples)]
        return result


def _melody(pitch: NDArray[np.float64], shift: Shift) -> NDArray[np.float64]:
    voiced = pitch > 0
    if not voiced.any():
        return pitch
    logarithm = np.log(np.where(voiced, pitch, 1.0))
    mean = logarithm[voiced].mean()
    return np.where(voiced, np.exp(mean + shift.melody * (logarithm - mean)) * shift.pitch, 0.0)


def _stretched(
    envelope: NDArray[np.float64], frequencies: NDArray[np.float64], formants: tuple[float, ...]
) -> NDArray[np.float64]:
    """The power envelope ``[frames, bins]`` with every frequency f moved to f times the factor there."""
    old = np.array([0.0, *_KNOTS_HZ, 2 * frequencies[-1]])
    factors = np.array([formants[0], *formants, formants[-1]])
    bins = np.interp(frequencies, old * factors, old) / frequencies[1]
    below = np.minimum(bins.astype(np.intp), len(frequencies) - 1)
    above = np.minimum(below + 1, len(frequencies) - 1)
    part = np.clip(bins - below, 0.0, 1.0)
    logarithm = np.log(envelope)
    return np.ascontiguousarray(np.exp(logarithm[:, below] * (1 - part) + logarithm[:, above] * part))


def _extension() -> Any:
    """pyworld's compiled module; the package's own __init__ needs the pkg_resources that setuptools dropped."""
    package = importlib.util.find_spec("pyworld")
    folders = package.submodule_search_locations if package else None
    spec = importlib.machinery.PathFinder.find_spec("pyworld.pyworld", folders) if folders else None
    if spec is None or spec.loader is None:
        raise TeacherMissing("the package pyworld is not installed: pip install pyworld")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
