"""Classifier-free guidance: which rows a step runs, what each row sees, and how their velocities are mixed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

import torch
from torch import Tensor

from echo.model.network.kv import KV, key_count
from echo.types import SamplerParams


class Branch(Enum):
    """One row of a guided step; the latent prefix is visible to all of them."""

    COND = auto()  # text and speaker
    NO_TEXT = auto()
    NO_SPEAKER = auto()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Conditions:
    """What an utterance is spoken from.

    ``text`` comes from ``EchoDiT.encode_text``, ``speaker`` from ``encode_speaker`` (None = no reference).
    """

    text: KV
    speaker: KV | None = None

    def sources(self, branch: Branch, latent: KV | None) -> list[KV]:
        """What a row sees beside the speaker, ordered so that ``pack_context`` can share it."""
        text = None if branch is Branch.NO_TEXT else self.text
        return [kv for kv in (text, latent) if kv is not None]

    def branches(self, params: SamplerParams) -> tuple[Branch, ...]:
        """The rows of a guided step. A row whose term is exactly zero is not run: scale 0, or nothing to leave out."""
        return guided_branches(params, has_speaker=self.speaker is not None and key_count(self.speaker) > 0)


def guided_branches(params: SamplerParams, *, has_speaker: bool) -> tuple[Branch, ...]:
    """The rows of a guided step of an utterance with or without a voice."""
    rows = [Branch.COND]
    if params.cfg_scale_text != 0:
        rows.append(Branch.NO_TEXT)
    if params.cfg_scale_speaker != 0 and has_speaker:
        rows.append(Branch.NO_SPEAKER)
    return tuple(rows)


def combine(velocities: dict[Branch, Tensor], text_scale: float, speaker_scale: float) -> Tensor:
    """Mix the branches' velocities (independent guidance): cond + Σ scale · (cond - branch); absent = no term."""
    cond = velocities[Branch.COND]
    mixed = cond
    if Branch.NO_TEXT in velocities:
        mixed = mixed + text_scale * (cond - velocities[Branch.NO_TEXT])
    if Branch.NO_SPEAKER in velocities:
        mixed = mixed + speaker_scale * (cond - velocities[Branch.NO_SPEAKER])
    return mixed


def rescale(velocity: Tensor, x: Tensor, t: float, k: float, sigma: float) -> Tensor:
    """Temporal score rescaling at flow time t (0 < t): k > 1 flattens the sampled distribution, k < 1 sharpens it.

    Source: arXiv 2510.01184. At t = 1 there is no signal yet and nothing changes.
    """
    if t >= 1:
        return velocity
    snr = ((1 - t) / t) ** 2
    ratio = (snr * sigma**2 + 1) / (snr * sigma**2 / k + 1)
    return torch.sub(ratio * ((1 - t) * velocity + x), x) / (1 - t)
