"""A small phone recogniser: convolutions over mel spectra, read out by CTC."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Self, cast

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from echo.files import atomic_write
from echo.types import Audio
from train.evaluation.features import BANDS, Mel, mel
from train.tiny.teacher.phones import PAUSE, PHONES, Span

#: Classes: CTC's blank first, then the phones that are heard; a pause is blank.
SOUNDS = tuple(symbol for symbol in PHONES if symbol != PAUSE)
BLANK = 0
#: Mel frames per frame of the output.
STRIDE = 2
_WIDTH, _KERNEL = 160, 5
#: Two stacks of these see half a second to both sides.
_DILATIONS = (1, 2, 4, 1, 2, 4)


class _Norm(nn.Module):
    """Root-mean-square norm of the channels of each frame: the padding of a batch does not enter."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, width, frames] -> the same shape."""
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-5) * self.weight


class _Block(nn.Module):
    """A dilated convolution beside a skip connection."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.norm = _Norm(width)
        self.wide = nn.Conv1d(width, width, _KERNEL, dilation=dilation, padding=dilation * (_KERNEL // 2))
        self.out = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, width, frames] -> the same shape."""
        return cast(Tensor, x + self.out(nn.functional.gelu(self.wide(self.norm(x)))))


class PhoneNet(nn.Module):
    """Normalised mel frames -> logits of blank and sounds; a second head says what sounds in each frame."""

    def __init__(self, width: int = _WIDTH) -> None:
        super().__init__()
        self.enter = nn.Conv1d(BANDS, width, _KERNEL, stride=STRIDE, padding=_KERNEL // 2)
        self.blocks = nn.Sequential(*(_Block(width, dilation) for dilation in _DILATIONS))
        self.norm = _Norm(width)
        self.read = nn.Conv1d(width, 1 + len(SOUNDS), 1)
        self.align = nn.Conv1d(width, 1 + len(SOUNDS), 1)

    def forward(self, spectra: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, frames, bands] -> CTC and frame logits, [batch, frames / STRIDE, classes] each."""
        x = nn.functional.gelu(self.norm(self.blocks(self.enter(spectra.transpose(1, 2)))))
        return self.read(x).transpose(1, 2), self.align(x).transpose(1, 2)


class PhoneRecogniser:
    """Transcribes speech into sounds."""

    def __init__(self, net: PhoneNet, about: dict[str, str] | None = None) -> None:
        self._net = net.eval().requires_grad_(False)
        self.about = about or {}

    @torch.inference_mode()
    def sounds(self, samples: Audio) -> list[str]:
        """The sounds of mono audio at the corpus's rate, best class per frame, repetitions and blanks dropped."""
        spectrum = normalised(mel(samples))
        if not len(spectrum):
            return []
        logits, _ = self._net(torch.from_numpy(spectrum)[None])
        return [SOUNDS[index - 1] for index, _ in groupby(logits[0].argmax(-1).tolist()) if index != BLANK]

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that name the weights: error rates by different recognisers cannot be compared."""
        hashed = hashlib.sha256()
        for key, tensor in sorted(self._net.state_dict().items()):
            hashed.update(key.encode() + tensor.float().numpy().tobytes())
        return hashed.hexdigest()[:12]

    def save(self, path: Path) -> None:
        """Write the weights and what is known of them."""
        with atomic_write(path) as unfinished:
            save_file(self._net.state_dict(), unfinished, {"about": json.dumps(self.about)})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what ``save`` wrote."""
        net = PhoneNet()
        with safe_open(path, framework="pt") as file:
            net.load_state_dict({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118 - no mapping
            about = json.loads((file.metadata() or {}).get("about", "{}"))
        return cls(net, about)


def normalised(spectrum: Mel) -> Mel:
    """Without what a voice, a room or a codec adds to every frame: zero mean per band, unit size over all."""
    if not len(spectrum):
        return spectrum
    centred = spectrum - spectrum.mean(0)
    return np.asarray(centred / (centred.std() + 1e-3), np.float32)


def sounds_of(spans: Sequence[Span]) -> list[str]:
    """What a perfect recogniser would write for these phones."""
    return [span.symbol for span in spans if span.symbol != PAUSE]
