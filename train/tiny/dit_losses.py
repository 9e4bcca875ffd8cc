"""What the DiT is trained for: the flow, and, in training only, knowing where in the text it is and what it speaks.

The alignment losses are what makes a small model speak within hours: the flow loss alone tells it very late that a
latent depends on one byte of the text and not on all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echo.model.network.config import DiTConfig
from train.tiny.dit_batches import Targets
from train.tiny.dit_model import Inputs, Outputs

#: Phone sequences are read from the text by a classifier with so many outputs per byte ("x" is two phones).
OUTPUTS_PER_BYTE = 2
#: Latents of silence before the first and after the last byte that still count as belonging to it.
_MARGIN = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LossWeights:
    """Weights beside the flow loss's 1, at the start of a run.

    attention  cross-entropy of the heads' mean attention to the text against the true place
    ctc        the text's states tell the phone sequence
    phone      a block's output tells the phone of every latent
    time       the text's states tell when a byte is spoken, in the rotary angles of that time
    until      share of the run after which all of them are 0 (they fall linearly)
    width      deviation of the true place, in bytes
    """

    attention: float = 0.3
    ctc: float = 0.15
    phone: float = 0.15
    time: float = 0.7
    until: float = 0.9
    width: float = 1.0


class Heads(nn.Module):
    """The classifiers of the training-only losses; they are thrown away."""

    def __init__(self, config: DiTConfig, phones: int) -> None:
        super().__init__()
        self._phones = phones
        self.ctc = nn.Linear(config.text_model_size, OUTPUTS_PER_BYTE * (phones + 1))
        self.phone = nn.Linear(config.model_size, 2 * phones)
        self.time = nn.Linear(config.text_model_size, config.head_dim)
        # The joint attention's own rotary frequencies: what a query at that time is rotated by.
        frequencies = 10_000.0 ** (-torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim)
        self.register_buffer("_frequencies", frequencies, persistent=False)

    def terms(self, batch: Inputs, outputs: Outputs, targets: Targets, *, width: float) -> dict[str, Tensor]:
        """Return the unweighted losses by name, ``flow`` first."""
        has_text = batch.text_mask[:, :1].float()  # rows whose text was dropped do not count
        timed = (targets.centres >= 0) & batch.text_mask
        state = outputs.text_state
        terms = {"flow": flow(outputs.velocity, targets)}
        if outputs.alignments:
            where, weight = places(targets, timed, width)
            weight = weight * has_text
            parts = [attention(scores, batch.text_mask, where, weight) for scores in outputs.alignments]
            terms["attention"] = torch.stack(parts).mean()
        terms["ctc"] = self._ctc(state, batch, targets)
        terms["phone"] = self._phone(outputs.hidden, targets, has_text)
        terms["time"] = self._time(state, targets.centres, timed)
        return terms

    def _ctc(self, state: Tensor, batch: Inputs, targets: Targets) -> Tensor:
        has_text = batch.text_mask[:, 0]
        logits = self.ctc(state).float().unflatten(-1, (OUTPUTS_PER_BYTE, self._phones + 1)).flatten(1, 2)
        lengths = OUTPUTS_PER_BYTE * batch.text_mask.sum(1)
        losses = F.ctc_loss(
            logits.log_softmax(-1).transpose(0, 1),
            targets.phones + 1,  # class 0 is the blank
            lengths,
            targets.sounds,
            reduction="none",
            zero_infinity=True,
        )
        per_phone = losses / targets.sounds.clamp(min=1)
        return torch.where(has_text, per_phone, 0.0).sum() / has_text.sum().clamp(min=1)

    def _phone(self, hidden: Tensor, targets: Targets, has_text: Tensor) -> Tensor:
        logits = self.phone(hidden).float().unflatten(-1, (2, self._phones))
        losses = F.cross_entropy(logits.flatten(0, 2), targets.labels.flatten(), reduction="none")
        weight = targets.frame_weight * has_text
        return weighted_mean(losses.view_as(targets.labels).mean(-1), weight)

    def _time(self, state: Tensor, centres: Tensor, timed: Tensor) -> Tensor:
        frequencies = self.get_buffer("_frequencies")
        angles = centres[..., None] * frequencies
        wanted = torch.cat((angles.cos(), angles.sin()), dim=-1)
        return weighted_mean((self.time(state).float() - wanted).square().mean(-1), timed.float())


def flow(velocity: Tensor, targets: Targets) -> Tensor:
    """Mean squared error of the velocity, frames weighted."""
    return weighted_mean((velocity - targets.velocity).square().mean(-1), targets.frame_weight)


def attention(scores: Tensor, seen: Tensor, where: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy of the heads' mean attention to the text.

    scores  [rows, heads, size, bytes] before the softmax;  seen [rows, bytes]
    where   [rows, size, bytes], the wanted attention, sums to 1;  weight [rows, size]
    """
    chosen = scores.masked_fill(~seen[:, None, None], -1e4).softmax(-1).mean(1)
    return weighted_mean(-(where * (chosen + 1e-6).log()).sum(-1), weight)


def places(targets: Targets, timed: Tensor, width: float) -> tuple[Tensor, Tensor]:
    """Where in the text every latent is: a bell over the bytes ``[rows, size, bytes]``, and which latents count.

    timed  [rows, bytes], bytes that have a time; they lie next to one another
    """
    infinite = torch.full_like(targets.centres, torch.inf)
    centres = torch.where(timed, targets.centres, infinite)
    first = timed.int().argmax(1, keepdim=True)
    count = timed.sum(1, keepdim=True)
    # Sorted for the search: bytes without a time before the first have -inf, those behind the last +inf.
    index = torch.arange(centres.shape[1], device=centres.device)
    ascending = torch.where(index < first, -infinite, centres)
    after = torch.searchsorted(ascending, targets.time.contiguous(), right=True)
    after = after.clamp(min=first + 1, max=(first + count - 1).clamp(min=first + 1)).clamp(max=centres.shape[1] - 1)
    low, high = ascending.gather(1, after - 1), ascending.gather(1, after)
    usable = torch.isfinite(low) & torch.isfinite(high)
    share = torch.where(usable, (targets.time - low) / (high - low).clamp(min=1e-3), 0.0).clamp(0.0, 1.0)
    place = (after - 1) + share
    bell = torch.exp(-0.5 * ((index - place[..., None]) / width).square()) * timed[:, None]
    bell = bell / bell.sum(-1, keepdim=True).clamp(min=1e-6)
    begin = targets.centres.gather(1, first)
    end = torch.where(timed, targets.centres, -infinite).amax(1, keepdim=True)
    counts = (targets.time > begin - _MARGIN) & (targets.time < end + _MARGIN)
    return bell, counts.float()


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Mean of ``values``, weighted; 0 where nothing has weight."""
    return (values * weights).sum() / weights.sum().clamp(min=1e-6)


def total(terms: dict[str, Tensor], weights: LossWeights, progress: float) -> Tensor:
    """Sum of the losses, weighted as they are at ``progress`` (0 to 1)."""
    share = max(0.0, 1.0 - progress / weights.until) if weights.until > 0 else 0.0
    total = terms["flow"]
    for name in ("attention", "ctc", "phone", "time"):
        if name in terms:
            total = total + getattr(weights, name) * share * terms[name]
    return total
