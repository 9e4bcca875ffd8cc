"""The loop that decoder, encoder and DiT share: steps, learning rates, curves, checkpoints."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from train.tiny import optim, state
from train.tiny.budget import Budget, Stopwatch, progress_bar
from train.tiny.plots import append_curve, cut_curve, plot_curves


class Task(Protocol):
    """What is trained: its modules, and what a step learns from."""

    def parts(self) -> Mapping[str, tuple[nn.Module, Mapping[str, torch.optim.Optimizer]]]:
        """Modules and their optimisers by name; all of it is kept in the checkpoint."""
        ...

    def step(self, number: int, progress: float) -> dict[str, Tensor]:
        """Compute gradients, step the optimisers, and return what the curves show."""
        ...

    def measure(self, folder: Path) -> dict[str, float]:
        """Figures on held-out speech; may write clips into ``folder``."""
        ...


class Stage:
    """One run of a task in a folder: ``checkpoint`` (resumed from when it is there), curves, clips.

    between  called before the first step and whenever a checkpoint was written
    """

    def __init__(
        self,
        task: Task,
        folder: Path,
        *,
        save_minutes: float = 2.0,
        log_steps: int = 20,
        between: Callable[[], None] | None = None,
    ) -> None:
        self.folder = folder
        self.number = 0
        self.seconds = 0.0
        self._task = task
        self._save_minutes = save_minutes
        self._log_steps = log_steps
        self._between = between or (lambda: None)
        folder.mkdir(parents=True, exist_ok=True)
        if (found := state.load(folder / "checkpoint")) is not None:
            tensors, facts = found
            for name, (module, optimizers) in task.parts().items():
                module.load_state_dict(state.under(name, tensors))
                state.restore_optimizers(module, optimizers, state.under(f"{name}-state", tensors))
            self.number, self.seconds = facts["step"], facts["seconds"]
        cut_curve(folder / "curves.jsonl", self.number)

    def train(self, budget: Budget, *, show_progress: bool = True) -> None:
        """Train until the budget is used up; returns at once when it already is."""
        first, saved = self.number, time.monotonic()
        sums: dict[str, Tensor] = {}
        counted = 0
        progress = budget.progress(seconds=self.seconds, step=self.number)
        if progress < 1.0:
            self._between()
        watch = Stopwatch(self.seconds)
        with progress_bar(self.folder.name, progress, show=show_progress) as bar:
            while progress < 1.0:
                for name, term in self._task.step(self.number, progress).items():
                    sums[name] = sums.get(name, 0.0) + term.detach()
                self.number += 1
                counted += 1
                self.seconds = watch.lap()
                progress = budget.progress(seconds=self.seconds, step=self.number)
                bar.update(progress - bar.n)
                if self.number % self._log_steps == 0:
                    row = {name: round(float(value) / counted, 5) for name, value in sums.items()}
                    self._log(row)
                    title, value = next(iter(row.items()))
                    bar.set_postfix_str(f"step {self.number}, {title} {value:.3f}")
                    sums, counted = {}, 0
                if time.monotonic() - saved > self._save_minutes * 60 and progress < 1.0:
                    self.save()
                    self._between()
                    saved = time.monotonic()
                    watch.skip()
        if self.number > first:
            self.save()
            if (curves := self.folder / "curves.jsonl").exists():  # not after a handful of steps
                plot_curves(curves, curves.with_suffix(".png"))

    def save(self) -> None:
        """Write the checkpoint, and measure."""
        tensors: dict[str, Tensor] = {}
        for name, (module, optimizers) in self._task.parts().items():
            tensors |= state.prefixed(name, module.state_dict())
            tensors |= state.prefixed(f"{name}-state", state.optimizer_tensors(module, optimizers))
        state.save(self.folder / "checkpoint", tensors, {"step": self.number, "seconds": round(self.seconds, 1)})
        if measured := self._task.measure(self.folder):
            self._log({name: round(value, 4) for name, value in measured.items()})

    def _log(self, row: Mapping[str, Any]) -> None:
        append_curve(self.folder / "curves.jsonl", {"step": self.number, "seconds": round(self.seconds, 1), **row})


def advance(module: nn.Module, optimizers: Mapping[str, torch.optim.Optimizer], *, share: float, clip: float) -> Tensor:
    """Step the optimisers at ``share`` of their rates and clear the gradients; returns the gradient's norm."""
    norm = nn.utils.clip_grad_norm_(module.parameters(), clip)
    optim.set_rate(optimizers.values(), share)
    for optimizer in optimizers.values():
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return norm


def describe(folder: Path, options: Mapping[str, Any]) -> None:
    """Write the options of a run next to its results."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "options.json").write_text(json.dumps(options, indent=1) + "\n", encoding="utf-8")
