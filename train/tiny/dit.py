"""The DiT's training loop: resumable at any step, by time or by steps, on the CPU or on CUDA."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from echo.model.config import DiTConfig
from train.tiny import optim, state
from train.tiny.budget import Budget, Stopwatch, progress_bar
from train.tiny.dit_batches import Batches, BatchOptions, References
from train.tiny.dit_data import Utterances
from train.tiny.dit_losses import Heads, LossWeights, places, total
from train.tiny.dit_model import Outputs, TrainableDiT
from train.tiny.plots import append_curve, cut_curve
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
    bf16, compile     reduced precision; compiled blocks (CUDA only)
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
    bf16: bool = True
    compile: bool = True
    encoded_per_speaker: int = 6
    save_minutes: float = 3.0
    log_steps: int = 20
    measure_steps: int = 100
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


class DiTTraining:
    """One run: model, optimisers, position; ``folder`` gets the checkpoint and the curves.

    encoded  called now and then for references through the codec's encoder, until it returns some
    """

    def __init__(
        self,
        config: DiTConfig,
        options: DiTOptions,
        utterances: Utterances,
        folder: Path,
        *,
        seed: int,
        device: torch.device,
        start: Mapping[str, Tensor] | None = None,
        encoded: Callable[[], References | None] | None = None,
    ) -> None:
        torch.manual_seed(seed)
        self.options = options
        self.folder = folder
        self.step = 0
        self.seconds = 0.0
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
        self._resume()
        self._batches = self._make_batches()
        self._held_out = self._make_held_out()

    @property
    def dit(self) -> TrainableDiT:
        """The model being trained."""
        return self._model.dit

    def train(self, budget: Budget, *, show_progress: bool = True) -> None:
        """Train until the budget is used up; returns at once when it already is."""
        options = self.options
        saved, first = time.monotonic(), self.step
        watch = Stopwatch(self.seconds)
        sums: dict[str, Any] = {}
        counted = 0
        progress = budget.progress(seconds=self.seconds, step=self.step)
        if progress < 1.0:
            self._look_for_encoded()
        watch.skip()
        with progress_bar("dit", progress, show=show_progress) as bar:
            while progress < 1.0:
                terms = self._train_step(progress)
                self.step += 1
                for name, value in terms.items():
                    sums[name] = sums.get(name, 0.0) + value.detach()
                counted += 1
                self.seconds = watch.lap()
                progress = budget.progress(seconds=self.seconds, step=self.step)
                bar.update(progress - bar.n)
                if self.step % options.log_steps == 0:
                    row = {name: round(float(value) / counted, 4) for name, value in sums.items()}
                    sums, counted = {}, 0
                    self._log(row | (self.measure() if self.step % options.measure_steps == 0 else {}))
                    watch.skip()
                    bar.set_postfix_str(f"step {self.step} flow {row['flow']:.3f}")
                if time.monotonic() - saved > options.save_minutes * 60:
                    self.save()
                    self._look_for_encoded()
                    saved = time.monotonic()
                    watch.skip()
        if self.step > first:
            self.save()

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Measure held-out utterances.

        Flow, attention and CTC loss (how much worse the last is than in training tells that there are too few texts),
        and how often the attention's peak is right (±2 bytes).
        """
        if self._held_out is None:
            return {}
        inputs, targets = self._held_out
        with self._precision():
            outputs: Outputs = self._model.dit(inputs)
            terms = self._model.heads.terms(inputs, outputs, targets, width=self.options.losses.width)
        timed = (targets.centres >= 0) & inputs.text_mask
        where, weight = places(targets, timed, self.options.losses.width)
        scores = outputs.alignments[-1]
        peak = scores.masked_fill(~inputs.text_mask[:, None, None], -1e4).softmax(-1).mean(1).argmax(-1)
        near = ((peak - where.argmax(-1)).abs() <= 2).float()
        measured = {name: terms[name] for name in _MEASURED if name in terms}
        measured["aligned"] = (near * weight).sum() / weight.sum()
        return {f"held_out_{name}": round(float(value), 4) for name, value in measured.items()}

    def save(self) -> None:
        """Write the checkpoint."""
        tensors = state.prefixed("model", self._model.state_dict())
        tensors |= state.optimizer_tensors(self._model, self._optimizers)
        state.save(self.folder / "checkpoint", tensors, {"step": self.step, "seconds": round(self.seconds, 1)})

    def _train_step(self, progress: float) -> dict[str, Tensor]:
        options = self.options
        longest = options.easy_longest if progress < options.easy_until else None
        inputs, targets = self._batches.draw(self.step, longest=longest)
        optim.set_rate(
            self._optimizers.values(),
            optim.decay(progress, options.power) * optim.warm_up(self.step, options.warm_up),
        )
        with self._precision():
            outputs: Outputs = self._model.dit(inputs)
            terms = self._model.heads.terms(inputs, outputs, targets, width=options.losses.width)
        total(terms, options.losses, progress).backward()  # type: ignore[no-untyped-call]
        terms["gradient"] = nn.utils.clip_grad_norm_(self._model.parameters(), options.clip)
        for optimizer in self._optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return terms

    def _precision(self) -> torch.autocast:
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self.options.bf16)

    def _log(self, row: dict[str, Any]) -> None:
        facts = {"step": self.step, "seconds": round(self.seconds, 1)}
        append_curve(self.folder / "curves.jsonl", facts | row)

    def _resume(self) -> None:
        found = state.load(self.folder / "checkpoint")
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "options.json").write_text(json.dumps(asdict(self.options), indent=1) + "\n", encoding="utf-8")
        if found is not None:
            tensors, facts = found
            self._model.load_state_dict(state.under("model", tensors))
            state.restore_optimizers(self._model, self._optimizers, tensors)
            self.step, self.seconds = facts["step"], facts["seconds"]
        cut_curve(self.folder / "curves.jsonl", self.step)

    def _make_batches(self, encoded: References | None = None) -> Batches:
        return Batches(
            self._utterances,
            self.options.batches,
            seed=self._seed,
            encoded=encoded,
            patch=self._model.dit.config.speaker_patch_size,
        )

    def _make_held_out(self) -> tuple[Any, Any] | None:
        if not bool((self._utterances.split == 1).any()):
            return None
        batches = Batches(self._utterances, self.options.batches, seed=self._seed, split="heldout_text")
        rows = batches.within(160)[:12]
        return batches.fixed(rows, 160, seed=1) if rows else None

    def _look_for_encoded(self) -> None:
        if self._find_encoded is not None and (encoded := self._find_encoded()) is not None:
            self._batches = self._make_batches(encoded)
            self._find_encoded = None


_MEASURED = ("flow", "attention", "ctc")
