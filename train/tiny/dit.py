"""Trains the DiT: text and a reference clip -> latents."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from echo.model.network.config import DiTConfig
from train.tiny import optim
from train.tiny.budget import Budget
from train.tiny.dit_batches import Batches, BatchOptions, References
from train.tiny.dit_data import Utterances
from train.tiny.dit_losses import Heads, LossWeights, places, total
from train.tiny.dit_model import Outputs, TrainableDiT
from train.tiny.loop import Stage, advance, describe
from train.tiny.precision import precision
from train.tiny.teacher.phones import PHONES


@dataclass(frozen=True, slots=True, kw_only=True)
class DiTOptions:
    """How the DiT is trained; ``batches`` and ``losses`` have their own pages.

    start_from        model whose weights a fresh run starts from: a folder, or ``tiny`` for the one in the package;
                      empty = random
    alignment_layers  blocks whose attention to the text is taught
    phone_layer       block whose output must tell the phones
    lr, muon_lr       base rates of AdamW and of Muon
    power             the rate falls as ``(1 - progress) ** power``
    warm_up           steps over which the rate rises
    clip              largest norm of the gradient
    easy_until        share of the run during which whole utterances have at most ``easy_longest`` latents
    bf16              bfloat16; unset: not on a CPU that has no instructions for it, and would emulate it
    compile           compiled blocks (CUDA only)
    encoded_per_speaker  reference clips of every speaker that go through the codec's encoder
    """

    start_from: str = ""
    alignment_layers: tuple[int, ...] = (2, 4)
    phone_layer: int = 4
    lr: float = 1.5e-3
    muon_lr: float = 1.5e-3
    weight_decay: float = 0.02
    power: float = 0.9
    warm_up: int = 40
    clip: float = 1.0
    easy_until: float = 0.0
    easy_longest: int = 96
    bf16: bool | None = None
    compile: bool = True
    encoded_per_speaker: int = 6
    save_minutes: float = 3.0
    log_steps: int = 20
    batches: BatchOptions = field(default_factory=BatchOptions)
    losses: LossWeights = field(default_factory=LossWeights)


class Trainable(nn.Module):
    """The model and the heads of its training-only losses."""

    def __init__(self, config: DiTConfig, options: DiTOptions) -> None:
        super().__init__()
        self.dit = TrainableDiT(config, alignment_layers=options.alignment_layers, hidden_layer=options.phone_layer)
        self.heads = Heads(config, len(PHONES))
        self.reset()

    def reset(self) -> None:
        """Draw fresh weights from the global generator: unit gain, branches that begin near zero."""
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2 or "norm" in name:
                nn.init.ones_(parameter) if "norm" in name else nn.init.zeros_(parameter)
            elif name.endswith(("_up.weight", "dit.out_proj.weight")):
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
                if name.endswith(("wo.weight", "w2.weight")):
                    parameter.data.mul_(0.3)
                elif name.endswith("cond_module.4.weight"):
                    parameter.data.mul_(0.1)


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon trains a parameter: the projections inside blocks, not the modulation's."""
    return ".blocks." in name and "adaln" not in name and "norm" not in name and parameter.dim() == 2


class DiTTask:
    """The DiT's training.

    start    weights that it starts from
    encoded  called by ``look_for_encoded`` for references through the codec's encoder; None where there are no new ones
    """

    def __init__(
        self,
        config: DiTConfig,
        options: DiTOptions,
        utterances: Utterances,
        *,
        seed: int,
        device: torch.device,
        start: Mapping[str, Tensor] | None = None,
        encoded: Callable[[], References | None] | None = None,
    ) -> None:
        torch.manual_seed(seed)
        self._options = options
        self._device = device
        self._seed = seed
        self._utterances = utterances.to(device)
        self._find_encoded = encoded
        self._model = Trainable(config, options)
        if start is not None:
            self._model.dit.load_state_dict(dict(start))
        self._model.to(device)
        self._optimizers = optim.make_optimizers(
            self._model, is_matrix, lr=options.lr, muon_lr=options.muon_lr, weight_decay=options.weight_decay
        )
        if options.compile and device.type == "cuda":
            for block in self._model.dit.blocks:
                block.compile(dynamic=True)
        self._batches = self._make_batches()
        self._held_out = self._make_held_out()

    @property
    def dit(self) -> TrainableDiT:
        """The model being trained."""
        return self._model.dit

    def parts(self) -> Mapping[str, tuple[nn.Module, Mapping[str, torch.optim.Optimizer]]]:
        """The model with its heads."""
        return {"model": (self._model, self._optimizers)}

    def step(self, number: int, progress: float) -> dict[str, Tensor]:
        """One batch."""
        options = self._options
        longest = options.easy_longest if progress < options.easy_until else None
        inputs, targets = self._batches.draw(number, longest=longest)
        with self._precision():
            outputs: Outputs = self._model.dit(inputs)
            terms = self._model.heads.terms(inputs, outputs, targets, width=options.losses.width)
        total(terms, options.losses, progress).backward()  # type: ignore[no-untyped-call]
        share = optim.decay(progress, options.power) * optim.warm_up(number, options.warm_up)
        terms["gradient"] = advance(self._model, self._optimizers, share=share, clip=options.clip)
        return terms

    @torch.no_grad()
    def measure(self, folder: Path) -> dict[str, float]:
        """Measure held-out utterances.

        Flow, attention and CTC loss (how much worse the last is than in training tells that there are too few texts),
        and how often the attention's peak is right (±2 bytes).
        """
        if self._held_out is None:
            return {}
        inputs, targets = self._held_out
        with self._precision():
            outputs: Outputs = self._model.dit(inputs)
            terms = self._model.heads.terms(inputs, outputs, targets, width=self._options.losses.width)
        timed = (targets.centres >= 0) & inputs.text_mask
        where, weight = places(targets, timed, self._options.losses.width)
        scores = outputs.alignments[-1]
        peak = scores.masked_fill(~inputs.text_mask[:, None, None], -1e4).softmax(-1).mean(1).argmax(-1)
        near = ((peak - where.argmax(-1)).abs() <= 2).float()
        measured = {name: terms[name] for name in _MEASURED if name in terms}
        measured["aligned"] = (near * weight).sum() / weight.sum()
        return {f"held_out_{name}": float(value) for name, value in measured.items()}

    def look_for_encoded(self) -> None:
        """Take up references through the codec's encoder, whenever there are new ones."""
        if self._find_encoded is not None and (encoded := self._find_encoded()) is not None:
            self._batches = self._make_batches(encoded)

    def _precision(self) -> torch.autocast:
        return precision(self._device, self._options.bf16)

    def _make_batches(self, encoded: References | None = None) -> Batches:
        return Batches(
            self._utterances,
            self._options.batches,
            seed=self._seed,
            encoded=encoded,
            patch=self._model.dit.config.speaker_patch_size,
        )

    def _make_held_out(self) -> tuple[Any, Any] | None:
        if not bool((self._utterances.split == 1).any()):
            return None
        # Speakers of every pace: which ones are near the median changes with the corpus, and so would what is measured.
        options = replace(self._options.batches, slower=math.inf, faster=0.0)
        batches = Batches(self._utterances, options, seed=self._seed, split="heldout_text")
        rows = batches.within(160)[:_MEASURED_ROWS]
        return batches.fixed(rows, 160, seed=1) if rows else None


def train_dit(task: DiTTask, options: DiTOptions, folder: Path, budget: Budget, *, show_progress: bool = True) -> Stage:
    """Train until the budget is used up, continuing from what ``folder`` holds; it gets checkpoint and curves."""
    describe(folder, asdict(options))
    stage = Stage(
        task,
        folder,
        save_minutes=options.save_minutes,
        log_steps=options.log_steps,
        between=task.look_for_encoded,
    )
    stage.train(budget, show_progress=show_progress)
    return stage


_MEASURED = ("flow", "attention", "ctc")
_MEASURED_ROWS = 24
