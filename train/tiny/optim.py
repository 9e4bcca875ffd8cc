"""Muon for matrices, AdamW for the rest, and the schedule of their learning rates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from echo.engines.load import pick_dtype

#: Coefficients of the quintic iteration that pushes singular values to about one (Keller Jordan, "Muon", 2024).
_QUINTIC = (3.4445, -4.7750, 2.0315)
#: Update size per element that matches AdamW's, so that both share one learning rate (arXiv 2502.16982).
_RMS = 0.2


class Muon(torch.optim.Optimizer):
    """Momentum whose update is the nearest orthogonal matrix, for the weight matrices of hidden layers.

    Parameters of more than two dimensions (convolutions) count as ``[shape[0], -1]``. Matrices of one shape are
    orthogonalised together. ``lr`` is AdamW's: the update is scaled to the same size per element.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        iterations: int = 5,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._iterations = iterations

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None, "Muon takes no closure"
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    update = self._momentum(parameter, group["momentum"]).flatten(1)
                    by_shape[(update.shape[0], update.shape[1])].append((parameter, update))
            for (rows, columns), members in by_shape.items():
                updates = orthogonal(torch.stack([update for _, update in members]), self._iterations)
                scale = group["lr"] * _RMS * max(rows, columns) ** 0.5
                for (parameter, _), update in zip(members, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update.view_as(parameter), alpha=-scale)

    def _momentum(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        state: dict[str, Any] = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        buffer: Tensor = state["momentum"]
        assert parameter.grad is not None
        buffer.lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(buffer, momentum)  # Nesterov: one step ahead of the buffer


def orthogonal(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Return about the nearest orthogonal matrices of ``[n, rows, columns]``: singular values between 0.7 and 1.2."""
    a, b, c = _QUINTIC
    # bfloat16 suffices (the result is only about orthogonal) and is four times as fast, where it is not emulated.
    x = matrices.to(pick_dtype(None, matrices.device))
    wide = x if x.shape[1] <= x.shape[2] else x.mT
    wide = wide / (wide.float().norm(dim=(1, 2), keepdim=True) + 1e-7).to(wide.dtype)
    for _ in range(iterations):
        gram = wide @ wide.mT
        wide = torch.baddbmm(wide, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return (wide if x.shape[1] <= x.shape[2] else wide.mT).to(matrices.dtype)


def split_parameters(
    module: nn.Module, is_matrix: Callable[[str, nn.Parameter], bool]
) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Return the parameters for Muon, those for AdamW with weight decay, and those without (norms and biases)."""
    muon, decayed, plain = [], [], []
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.dim() >= 2 and is_matrix(name, parameter):
            muon.append(parameter)
        elif parameter.dim() >= 2 and "norm" not in name:
            decayed.append(parameter)
        else:
            plain.append(parameter)
    return muon, decayed, plain


def make_optimizers(
    module: nn.Module,
    is_matrix: Callable[[str, nn.Parameter], bool],
    *,
    lr: float,
    muon_lr: float | None = None,
    weight_decay: float = 0.02,
    betas: tuple[float, float] = (0.9, 0.98),
    momentum: float = 0.95,
) -> dict[str, torch.optim.Optimizer]:
    """Make ``{"muon": ..., "adamw": ...}``; ``muon_lr`` None = ``lr``. Base rates stay in ``initial_lr``."""
    matrices, decayed, plain = split_parameters(module, is_matrix)
    adamw = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=lr,
        betas=betas,
        fused=True,
    )
    optimizers: dict[str, torch.optim.Optimizer] = {"adamw": adamw}
    if matrices:
        optimizers["muon"] = Muon(matrices, lr=muon_lr or lr, momentum=momentum, weight_decay=weight_decay)
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers


def decay(progress: float, power: float = 0.9) -> float:
    """Return the share of the base rate at ``progress`` (0 to 1) of a run: ``(1 - progress) ** power``."""
    return float((1.0 - min(max(progress, 0.0), 1.0)) ** power)


def warm_up(step: int, steps: int) -> float:
    """Return the share of the base rate at a step: rising over the first ``steps``."""
    return min(1.0, (step + 1) / steps) if steps > 0 else 1.0


def set_rate(optimizers: Iterable[torch.optim.Optimizer], share: float) -> None:
    """Set all learning rates to ``share`` of their base rates."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * share
