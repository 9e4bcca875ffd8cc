"""The server's autoencoder made trainable: plain weights, no streaming memory, sane first values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from echo.model.autoencoder import Autoencoder, AutoencoderConfig
from echo.model.autoencoder.conv import ConvNeXtBlock, ResidualUnit, Snake, fold_weight_norm
from echo.model.autoencoder.dac import Decoder, Encoder
from echo.model.autoencoder.history import History
from echo.model.autoencoder.quantizer import DownsampleQuantizer
from echo.model.autoencoder.spectral_encoder import SpectralEncoder
from train.tiny.latents import LATENT_SIZE

#: Spread that each convolution's output gets on the first batch: in a chain, at the end of a branch, at the very end.
_CHAIN, _BRANCH, _END = 0.6, 0.25, 0.05


class Fresh(History):
    """The start of a signal whose continuation nobody asks for: pads with zeros and remembers nothing."""

    def prepend(self, x: Tensor, count: int, dim: int = -1) -> Tensor:
        """``x`` behind ``count`` zeros."""
        if count == 0:
            return x
        padding = [0, 0] * (-dim if dim < 0 else x.dim() - dim)
        padding[-2] = count
        return F.pad(x, padding)

    def advance(self, x: Tensor, count: int) -> Tensor:
        """Position zero."""
        return torch.zeros(x.shape[0], dtype=torch.long, device=x.device)


class _Snake(torch.autograd.Function):
    """``x + sin²(αx) / α`` as ``x + (1 - cos 2αx) / 2α``, with few passes over the signal, which is what takes time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor) -> Tensor:
        rise = torch.mul(x, 2.0 * alpha).cos_().neg_().add_(1.0)
        ctx.save_for_backward(x, alpha, rise)
        return torch.addcmul(x, rise, 0.5 / alpha)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, alpha, rise = ctx.saved_tensors
        (gradient,) = gradients
        turned = torch.mul(x, 2.0 * alpha).sin_().mul_(gradient)
        slope = (
            torch.linalg.vecdot(turned, x).sum(0) - torch.linalg.vecdot(gradient, rise).sum(0) * 0.5 / alpha[0, :, 0]
        )
        return turned.add_(gradient), slope[None, :, None] / alpha


class QuickSnake(Snake):
    """The activation with a hand-written gradient."""

    def forward(self, x: Tensor, history: History) -> Tensor:
        """[batch, channels, frames] -> the same."""
        return cast(Tensor, _Snake.apply(x, self.alpha))  # type: ignore[no-untyped-call]


def trainable(config: AutoencoderConfig) -> Autoencoder:
    """An autoencoder with plain weights in float32; ``save_release`` splits them into magnitude and direction."""
    model = Autoencoder(config)
    fold_weight_norm(model, torch.float32)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Snake):
                quick = QuickSnake(child.alpha.shape[1])
                quick.alpha = child.alpha
                setattr(module, name, quick)
    return model.requires_grad_(True)


def weight_normed(model: Autoencoder) -> Autoencoder:
    """The same model with every weight split into magnitude and direction, as the server's class is built."""
    normed = Autoencoder(model.config)
    plain = model.state_dict()
    own = normed.state_dict()
    normed.load_state_dict({key: plain.get(key, value) for key, value in own.items()})
    for name, module in normed.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            module.weight = plain[f"{name}.weight"]  # the parametrisation splits it
    return normed


def embedded(latents: Tensor, latent_dim: int) -> Tensor:
    """Latents ``[b, n, 80]`` as the autoencoder's vectors ``[b, latent_dim, n]``: the rest is zeros."""
    return F.pad(latents, (0, latent_dim - LATENT_SIZE)).transpose(1, 2)


class DecodePath(nn.Module):
    """What turns latents into audio, with the state-dict keys of the whole autoencoder."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.latent_dim = model.config.latent_dim
        self.quantizer = nn.ModuleDict(
            {"post_module": model.quantizer.post_module, "upsample": model.quantizer.upsample}
        )
        assert isinstance(model.decoder, Decoder)
        self.decoder: Decoder = model.decoder

    def forward(self, latents: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Latents ``[b, n, 80]`` -> (audio ``[b, n · 2048]``, the outputs of the decoder's blocks)."""
        history = Fresh()
        x = self.quantizer["post_module"](embedded(latents, self.latent_dim), history)
        x = self.quantizer["upsample"](x, history)
        layers = []
        for layer in self.decoder.model:
            x = layer(x, history)
            layers.append(x)
        return torch.tanh(x)[:, 0], layers[1:-2]


class EncodePath(nn.Module):
    """What turns audio into vectors that the quantiser has not seen yet, with the whole autoencoder's keys."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.encoder: Encoder | SpectralEncoder = model.encoder
        quantizer: DownsampleQuantizer = model.quantizer
        self.quantizer = nn.ModuleDict()
        if isinstance(model.encoder, Encoder):
            self.quantizer.update({"downsample": quantizer.downsample, "pre_module": quantizer.pre_module})

    def forward(self, audio: Tensor) -> Tensor:
        """Audio ``[b, n · 2048]`` -> ``[b, n, latent_dim]``."""
        history = Fresh()
        frames: Tensor = self.encoder(audio[:, None], history)
        for layer in self.quantizer.values():
            frames = layer(frames, history)
        return frames.transpose(1, 2)


@torch.no_grad()
def set_first_weights(path: nn.Module, example: Tensor) -> None:
    """Draw weights from the global generator, then scale every convolution by what it makes of ``example``."""
    hooks = []
    last = ""
    for name, module in path.named_modules():
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
            nn.init.normal_(module.weight)
            nn.init.zeros_(cast(Tensor, module.bias))
            last = name
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.weight.shape[1] ** -0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, ConvNeXtBlock):
            module.gamma.fill_(0.3)
        elif name.endswith("_layer_scale"):
            cast(Tensor, module.gamma).fill_(0.3)
    branches = {id(unit.block[3].conv) for unit in path.modules() if isinstance(unit, ResidualUnit)}
    for name, module in path.named_modules():
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
            end = name == last and cast(Any, module).out_channels == 1
            target = _END if end else _BRANCH if id(module) in branches else _CHAIN
            hooks.append(module.register_forward_hook(partial(_rescale, target)))
    path(example)
    for hook in hooks:
        hook.remove()


@torch.no_grad()
def set_small_weights(network: nn.Module) -> None:
    """Draw a spectral network's weights from the global generator: small ones, and residual branches that are small."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv1d):
            nn.init.trunc_normal_(module.weight, std=0.02)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
        elif isinstance(module, ConvNeXtBlock):
            module.gamma.fill_(0.25)


def _rescale(target: float, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    factor = target / output.std().clamp(min=1e-6)
    cast(Tensor, module.weight).mul_(factor)
    return output * factor


@torch.no_grad()
def grow(path: nn.Module, smaller: Mapping[str, Tensor]) -> None:
    """Take over the weights of a model that may have narrower convolutions; afterwards ``path`` computes what it did.

    Its weights go into the first corner of each tensor. What would lead from new channels to old ones is zero, so the
    new ones, which keep their drawn weights, start without effect. Raises ValueError where the plans differ otherwise.
    """
    modules = dict(path.named_modules())
    for key, tensor in path.state_dict().items():
        if key.endswith("freqs_cis"):
            continue
        old = smaller.get(key)
        if old is None or old.dim() != tensor.dim():
            raise ValueError(f"the model to start from has no {key} of {tensor.dim()} dimensions")
        module = modules[key.rpartition(".")[0]]
        convolution = isinstance(module, nn.Conv1d | nn.ConvTranspose1d) or key.endswith("alpha")
        pairs = zip(old.shape, tensor.shape, strict=True)
        if any(a > b if convolution else a != b for a, b in pairs):
            raise ValueError(f"{key} {list(old.shape)} does not fit into {list(tensor.shape)}")
        if tensor.dim() == 3 and not key.endswith("alpha"):
            outputs = 1 if isinstance(module, nn.ConvTranspose1d) else 0
            tensor.narrow(outputs, 0, old.shape[outputs]).zero_()
        tensor[tuple(slice(size) for size in old.shape)] = old.to(tensor)


def decoder_widths(config: AutoencoderConfig) -> Sequence[int]:
    """Channels that the decoder's blocks put out."""
    return [config.decoder_dim // 2 ** (level + 1) for level in range(len(config.decoder_rates))]


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon trains a weight: matrices and convolutions of some width, no depthwise ones, no single outputs."""
    return name.endswith("weight") and parameter.dim() >= 2 and min(parameter.shape[0], parameter[0].numel()) >= 8
