"""Predicted opinions of listeners, 1 to 5: DistillMOS (how natural) and DNSMOS (noise and distortion).

Both listen at 16 kHz, so neither hears what lies above 8 kHz.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from echo.types import Audio
from train.evaluation.judges.packages import JUDGE_RATE, at_judge_rate, package

#: Shortest clip in samples that DistillMOS is given; shorter ones are followed by silence.
_SHORTEST = JUDGE_RATE


class DistillMos:
    """Predicts how natural a listener would call speech.

    Raises:
        JudgeMissing: The package distillmos is not installed.
    """

    def __init__(self) -> None:
        self._model = package("distillmos").ConvTransformerSQAModel().eval()

    @torch.inference_mode()
    def __call__(self, samples: Audio) -> float:
        """Opinion of mono audio at the corpus's rate."""
        audio = at_judge_rate(samples)
        audio = np.pad(audio, (0, max(0, _SHORTEST - len(audio))))
        return float(self._model(torch.from_numpy(audio)[None]).squeeze())


@dataclass(frozen=True, slots=True)
class Distortion:
    """What DNSMOS predicts.

    Attributes:
        overall: Overall quality (P.835).
        p808: Quality by the other, independent model (P.808).
    """

    overall: float
    p808: float


class DnsMos:
    """Predicts what listeners say of noise and distortion.

    Raises:
        JudgeMissing: The package speechmos is not installed.
    """

    def __init__(self) -> None:
        self._run = package("speechmos.dnsmos").run

    def __call__(self, samples: Audio) -> Distortion:
        """Opinions of mono audio at the corpus's rate."""
        found = self._run(at_judge_rate(samples), JUDGE_RATE)
        return Distortion(float(found["ovrl_mos"]), float(found["p808_mos"]))
