"""Compiled parts and captured CUDA graphs of a loaded model, ready before the first request."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence

import torch

from echo.model.autoencoder.dac import Autoencoder
from echo.model.cuda.compile import Artifacts, Compiler, artifact_key, obstacle
from echo.model.cuda.graphs import BUCKETS, CapturedForward
from echo.model.echo import EchoModel
from echo.model.network.arena import Arena
from echo.model.network.dit import EchoDiT
from echo.settings import Settings

log = logging.getLogger(__name__)

#: Size of the arena relative to the budget: slack for contexts that are packed again and for fragmentation. A K/V that
#: does not fit is allocated elsewhere, and its steps run eagerly.
_SLACK = 1.25

#: Lengths in latents of the pieces that a compiled decoder takes, for each of which it is compiled.
PIECES = (1, 4, 16, 64)
#: Batch sizes for which it is compiled: code for two streams accepts more, code for one does not.
_STREAMS = (1, 2)


class Acceleration:
    """Compiled parts and CUDA graphs of one model. The warm-up's requests compile, ``finish`` does the rest.

    forward  the forward to capture; None = steps run eagerly
    """

    def __init__(
        self,
        model: EchoModel,
        compilers: Sequence[Compiler] = (),
        artifacts: Artifacts | None = None,
        forward: CapturedForward | None = None,
    ) -> None:
        self._model = model
        self._compilers = compilers
        self._artifacts = artifacts
        self._forward = forward

    def finish(self) -> None:
        """Compile the shapes that a single request does not have, capture the graphs, and stop compiling.

        Called on the device's thread.
        """
        dit = self._model.dit
        if self._model.autoencoder.piece_lengths:
            for streams, length in itertools.product(_STREAMS, self._model.autoencoder.piece_lengths):
                latents = [torch.zeros(length, dit.config.latent_size)] * streams
                states = [state for _, state in self._model.decode([None] * streams, latents)()]
                self._model.decode(states, latents)()
        if self._forward is not None:
            dit.captured = self._forward
        if self._forward is not None and self._forward.start():
            log.info("steps of up to %d rows replay captured CUDA graphs", self._forward.max_rows)
        for compiler in self._compilers:
            compiler.seal()
        if self._artifacts is not None and any(compiler.active for compiler in self._compilers):
            self._artifacts.save()

    @property
    def misses(self) -> int:
        """Calls since ``finish`` whose shape was neither compiled nor captured."""
        uncaptured = self._forward.misses if self._forward is not None else 0
        return uncaptured + sum(compiler.misses for compiler in self._compilers)


def accelerate(settings: Settings, model: EchoModel, source: str, *, max_rows: int, budget: int) -> Acceleration:
    """Prepare what the settings ask for and the device can do.

    source    of the model; each source has its own artifacts
    max_rows  of a step
    budget    bytes that active utterances may take; all of them may be K/V
    """
    dit, autoencoder = model.dit, model.autoencoder
    compilers = []
    if settings.compile and _can_compile("the model", dit.device):
        compilers.append(compile_blocks(dit, Compiler("the model")))
    if settings.compile_ae and _can_compile("the decoder", autoencoder.device):
        compilers.append(compile_decoder(autoencoder, Compiler("the decoder"), PIECES))
    artifacts = None
    if compilers:
        device_name = torch.cuda.get_device_name(dit.device) if dit.device.type == "cuda" else dit.device.type
        folder = settings.cache_dir.expanduser() / settings.cache_version
        artifacts = Artifacts(folder / f"{artifact_key(device_name, source)}.bin")
        artifacts.load()
    forward = None
    if settings.cuda_graphs and dit.device.type == "cuda":
        dit.arena = make_arena(dit, budget, BUCKETS[-1])
        forward = CapturedForward(dit, dit.arena, max_rows=max_rows)
    return Acceleration(model, compilers, artifacts, forward)


def compile_blocks(dit: EchoDiT, compiler: Compiler) -> Compiler:
    """Add the compilable parts of the transformer's blocks to a compiler, and return it.

    Not the whole block: its attention fills and reads overlapping views of the keys, which torch.compile refuses, and
    takes a list as long as the batch, for each length of which it would compile anew.
    """
    for block in dit.blocks:
        compiler.add(block, "before_attention")
        compiler.add(block, "after_attention")
    return compiler


def compile_decoder(autoencoder: Autoencoder, compiler: Compiler, pieces: Sequence[int]) -> Compiler:
    """Add the decoder to a compiler, and return it.

    pieces  lengths in latents, for which the decoder is compiled; it then takes no others
    """
    compiler.add(autoencoder, "decode_piece")
    autoencoder.piece_lengths = pieces
    return compiler


def make_arena(dit: EchoDiT, budget: int, largest_step: int) -> Arena:
    """Allocate the buffer of all K/V.

    budget        bytes that active utterances may take
    largest_step  latents over all rows of the largest captured step, whose own keys come on top
    """
    config = dit.config
    keys = int(_SLACK * budget) // (config.num_layers * 2 * config.model_size * dit.dtype.itemsize) + largest_step
    return Arena(config.num_layers, config.num_heads, config.head_dim, keys, dtype=dit.dtype, device=dit.device)


def _can_compile(name: str, device: torch.device) -> bool:
    reason = obstacle(device)
    if reason is not None:
        log.info("%s is not compiled: %s", name, reason)
    return reason is None
