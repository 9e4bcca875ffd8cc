"""Causal convolutions, Snake, residual units and ConvNeXt blocks. Signals are [batch, channels, frames]."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from echo.model.autoencoder.history import History


class CausalConv1d(nn.Module):
    """Convolution that sees only the past: ceil(frames / stride) frames out.

    The left padding is the effective kernel minus the stride. On the right, zeros complete the last stride; a
    signal run in pieces needs every piece but the last to be a multiple of the stride.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        weight_norm: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, out_channels, kernel_size, stride=stride, dilation=dilation, groups=groups)
        if weight_norm:
            add_weight_norm(self.conv)
        self._stride = stride
        self._past = (kernel_size - 1) * dilation + 1 - stride

    def forward(self, x: Tensor, history: History) -> Tensor:
        """[batch, in, frames] -> [batch, out, ceil(frames / stride)]."""
        x = history.prepend(x, self._past)
        missing = (self._past - x.shape[-1]) % self._stride
        if missing:
            x = F.pad(x, (0, missing))
        return cast(Tensor, self.conv(x))


class CausalConvTranspose1d(nn.Module):
    """Upsampling by ``stride`` that sees only the past: frames · stride frames out (kernel a multiple of stride)."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int, weight_norm: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose1d(in_channels, out_channels, kernel_size, stride=stride)
        if weight_norm:
            add_weight_norm(self.conv)
        self._stride = stride
        self._past = kernel_size // stride - 1

    def forward(self, x: Tensor, history: History) -> Tensor:
        """[batch, in, frames] -> [batch, out, frames · stride]."""
        frames = x.shape[-1]
        y = cast(Tensor, self.conv(history.prepend(x, self._past)))
        return y.narrow(-1, self._past * self._stride, frames * self._stride)


class Snake(nn.Module):
    """Periodic activation ``x + sin²(αx) / (α + 1e-9)`` with one α per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Tensor, history: History) -> Tensor:
        """[batch, channels, frames] -> the same; keeps no history."""
        return self.activate(x)

    def activate(self, x: Tensor) -> Tensor:
        """As ``forward``: what a compiler makes one pass over the memory of, instead of six."""
        # In place: at 44.1 kHz every new tensor costs as much as computing it.
        return (self.alpha * x).sin_().square_().div_(self.alpha + 1e-9).add_(x)


class CausalSequential(nn.ModuleList):
    """Layers that run one after the other, all with the same history."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(layers)

    def forward(self, x: Tensor, history: History) -> Tensor:
        """Run every layer."""
        for layer in self:
            x = layer(x, history)
        return x


class ResidualUnit(nn.Module):
    """``x + conv1(snake(conv7(snake(x))))`` with a dilated conv7."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.block = CausalSequential(
            Snake(channels),
            CausalConv1d(channels, channels, 7, dilation=dilation),
            Snake(channels),
            CausalConv1d(channels, channels, 1),
        )

    def forward(self, x: Tensor, history: History) -> Tensor:
        """[batch, channels, frames] -> the same."""
        return cast(Tensor, self.block(x, history)).add_(x)


class ConvNeXtBlock(nn.Module):
    """Depthwise conv7, LayerNorm, a four times wider MLP, layer scale and a residual connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = CausalConv1d(channels, channels, 7, groups=channels, weight_norm=False)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.pwconv2 = nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor, history: History) -> Tensor:
        """[batch, channels, frames] -> the same."""
        h = self.norm(self.dwconv(x, history).transpose(1, 2))
        h = self.gamma * self.pwconv2(F.gelu(self.pwconv1(h)))
        return x + cast(Tensor, h).transpose(1, 2)


def add_weight_norm(conv: nn.Conv1d | nn.ConvTranspose1d) -> None:
    """Split the weight into magnitude and direction, normalised over all dimensions but the first."""
    parametrize.register_parametrization(conv, "weight", _WeightNorm(), unsafe=True)


class _WeightNorm(nn.Module):
    """As torch's own, but that it computes nothing on the meta device, where that imports a compiler, for seconds."""

    def forward(self, magnitude: Tensor, direction: Tensor) -> Tensor:
        """[out, 1, 1] and [out, in, kernel] -> the weight [out, in, kernel]."""
        return torch._weight_norm(direction, magnitude, 0)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The weight [out, in, kernel] -> magnitude and direction."""
        if weight.is_meta:
            return torch.empty(weight.shape[0], 1, 1, dtype=weight.dtype, device=weight.device), weight
        return torch.norm_except_dim(weight, 2, 0), weight


def fold_weight_norm(module: nn.Module, dtype: torch.dtype) -> None:
    """Replace every magnitude/direction pair below ``module`` by the plain weight in ``dtype``.

    The product is computed in float32 whatever the stored dtype, so that it is rounded once.
    """
    for conv in module.modules():
        if isinstance(conv, nn.Conv1d | nn.ConvTranspose1d) and parametrize.is_parametrized(conv, "weight"):
            cast(nn.ModuleDict, conv.parametrizations)["weight"].float()
            parametrize.remove_parametrizations(conv, "weight", leave_parametrized=True)
            conv.weight = nn.Parameter(conv.weight.detach().to(dtype), requires_grad=False)
