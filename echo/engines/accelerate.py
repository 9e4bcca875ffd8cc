"""Compiled parts and captured CUDA graphs of a loaded model, ready before the first request."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from echo.model.autoencoder.conv import Snake
from echo.model.autoencoder.dac import Autoencoder
from echo.model.cuda.capture import Capture, uncaptured
from echo.model.cuda.compile import Artifacts, Compiler, artifact_key, obstacle
from echo.model.cuda.decoder import CapturedDecoder, shapes_within
from echo.model.cuda.encoders import CapturedEncoders
from echo.model.cuda.graphs import BUCKETS, CapturedForward
from echo.model.echo import EchoModel
from echo.model.network.arena import Arena
from echo.model.network.dit import EchoDiT
from echo.model.network.encoders import LatentEncoder, TextEncoder

log = logging.getLogger(__name__)

#: Size of the arena relative to the budget: slack for contexts that are packed again and for fragmentation. A K/V that
#: does not fit is allocated elsewhere, and its rows run eagerly.
_SLACK = 1.25
#: Latents over all streams of the largest captured piece of the decoder: 64 need about 0.6 GB in the released model.
_LARGE_DECODE, _SMALL_DECODE = 256, 64
#: Free device memory, once the model is loaded, from which on the large one is captured.
_LARGE_DEVICE = 16 * 2**30
#: Decoder states per job: before the block, behind its last piece, and of a block that may be rejected twice.
_SLOTS_PER_JOB = 4
#: Share of the free device memory that the slots may take, and the fewest of them.
_SLOT_SHARE, _FEWEST_SLOTS = 0.05, 16
#: Latents of a row that is there to be compiled.
_ROW = 8
#: Seconds after which the interpreter hands its lock to another thread that waits for it. The device thread lets go of
#: it at every operation and waits up to five milliseconds (the default) for a busy event loop to let go of it in turn.
_SWITCH_S = 2e-4


def prepare_cuda() -> None:
    """Set what holds for the whole process where a model runs on CUDA."""
    # cuDNN's attention builds a plan for each new length of a text, on the way to its first byte.
    torch.backends.cuda.enable_cudnn_sdp(False)
    sys.setswitchinterval(_SWITCH_S)


class Acceleration:
    """Compiled parts and CUDA graphs of one model. The warm-up's requests compile, ``finish`` does the rest.

    forward, encoders, decoder  what to capture; None = it runs as it was written
    graphs                      whether they really capture, which the log tells
    """

    def __init__(
        self,
        model: EchoModel,
        compilers: Sequence[Compiler] = (),
        artifacts: Artifacts | None = None,
        *,
        forward: CapturedForward | None = None,
        encoders: CapturedEncoders | None = None,
        decoder: CapturedDecoder | None = None,
        graphs: bool = True,
    ) -> None:
        self._model = model
        self._compilers = compilers
        self._artifacts = artifacts
        self._forward = forward
        self._encoders = encoders
        self._decoder = decoder
        self._graphs = graphs
        self._begun = time.perf_counter()

    def finish(self) -> None:
        """Compile and capture everything, and stop compiling. Called on the device's thread."""
        dit = self._model.dit
        if self._forward is not None:
            dit.captured = self._forward
        captured = [
            name
            for name, part in (
                ("steps", self._forward),
                ("texts and prefixes", self._encoders),
                ("audio", self._decoder),
            )
            if part is not None and part.start()
        ]
        dit.encoders = self._encoders
        self._model.decoder.captured = self._decoder
        if self._compilers and "steps" not in captured:
            _step_of_two(dit)
        for compiler in self._compilers:
            compiler.seal()
        compiled = [compiler.name for compiler in self._compilers if compiler.active]
        if captured or compiled:
            log.info(
                "ready in %.0f s: compiled %s; %s %s",
                time.perf_counter() - self._begun,
                " and ".join(compiled) or "nothing",
                "captured" if self._graphs else "padded, without graphs:",
                ", ".join(captured) or "nothing",
            )
        if self._artifacts is not None and compiled:
            self._artifacts.save()
            log.info("what was compiled is in %s, the next start takes it from there", self._artifacts.file)

    @property
    def captures(self) -> bool:
        """Whether steps will be captured."""
        return self._forward is not None

    @property
    def misses(self) -> int:
        """Calls since ``finish`` whose shape was neither compiled nor captured."""
        parts = [part for part in (self._forward, self._encoders, self._decoder) if part is not None]
        return sum(part.misses for part in parts) + sum(compiler.misses for compiler in self._compilers)


@torch.inference_mode()
def _step_of_two(dit: EchoDiT) -> None:
    """Take a step of two utterances as it is written: the warm-up speaks one after the other."""
    contexts = dit.pack([[], []], _ROW)
    rows = [torch.zeros(_ROW, dit.config.latent_size, device=dit.device)] * 2
    dit.row_by_row(rows, dit.modulation([0.9, 0.4]), contexts, [0, 0])


def accelerate(
    model: EchoModel,
    source: str,
    *,
    max_rows: int,
    budget: int,
    jobs: int,
    artifacts: Path,
    compile: bool = True,
    compile_ae: bool = True,
    graphs: bool = True,
) -> Acceleration:
    """Prepare what is asked for and the device can do.

    source     of the model; each source has its own artifacts
    max_rows   of a step
    budget     bytes that active utterances may take; all of them may be K/V
    jobs       most active utterances
    artifacts  folder of what was compiled; only the server's user may write to it
    """
    dit, autoencoder = model.dit, model.autoencoder
    compilers = []
    if compile and _can_compile("the model", dit.device):
        compilers.append(compile_blocks(dit, Compiler("the model")))
        compilers.append(compile_encoders(dit, Compiler("the encoders")))
    if compile_ae and _can_compile("the decoder", autoencoder.device):
        compilers.append(compile_decoder(autoencoder, Compiler("the decoder")))
    compiled = None
    if compilers:
        device_name = torch.cuda.get_device_name(dit.device) if dit.device.type == "cuda" else dit.device.type
        compiled = Artifacts(artifacts / f"{artifact_key(device_name, source)}.bin")
        if compiled.load():
            log.info("what an earlier start has compiled comes from %s", compiled.file)
        else:
            log.info("compiling for this GPU for the first time: the start takes some minutes longer, once")
    forward = encoders = decoder = None
    # Without graphs the padded shapes are run as they are, because each new shape costs a search for kernels.
    capture: Capture | None = None if graphs else uncaptured
    if autoencoder.device.type == "cuda" and autoencoder.config.spectral is None:
        free, _ = torch.cuda.mem_get_info(autoencoder.device)
        shapes = shapes_within(_LARGE_DECODE if free >= _LARGE_DEVICE else _SMALL_DECODE)
        slots = decoder_slots(autoencoder, jobs, free)
        decoder = CapturedDecoder(autoencoder, model.pca, slots=slots, shapes=shapes, capture=capture)
    if dit.device.type == "cuda":
        encoders = CapturedEncoders(dit, capture=capture)
        if graphs:
            dit.arena = make_arena(dit, budget + model.resident_bytes, BUCKETS[-1])
            forward = CapturedForward(dit, dit.arena, max_rows=max_rows)
    return Acceleration(model, compilers, compiled, forward=forward, encoders=encoders, decoder=decoder, graphs=graphs)


def compile_blocks(dit: EchoDiT, compiler: Compiler) -> Compiler:
    """Add the compilable parts of the transformer's blocks to a compiler, and return it.

    Not the whole block: its attention fills and reads overlapping views of the keys, which torch.compile refuses, and
    takes a list as long as the batch, for each length of which it would compile anew.
    """
    for block in dit.blocks:
        compiler.add(block, "before_attention")
        compiler.add(block, "after_attention")
    return compiler


def compile_encoders(dit: EchoDiT, compiler: Compiler) -> Compiler:
    """Add the blocks of the encoders of texts and prefixes, which run at padded lengths, and return the compiler."""
    encoders: list[TextEncoder | LatentEncoder] = [dit.text_encoder, *([dit.latent_encoder] if dit.blockwise else [])]
    for encoder in encoders:
        for block in encoder.blocks:
            compiler.add(block, "forward")
    return compiler


def compile_decoder(autoencoder: Autoencoder, compiler: Compiler) -> Compiler:
    """Add the decoder's activations to a compiler, and return it.

    Up to 44.1 kHz they pass over more memory than the convolutions. The decoder as a whole takes minutes to compile and
    gains little more, once its launches are in a graph.
    """
    for module in autoencoder.decoder.modules():
        if isinstance(module, Snake):
            compiler.add(module, "activate")
    return compiler


def make_arena(dit: EchoDiT, budget: int, largest_step: int) -> Arena:
    """Allocate the buffer of all K/V.

    budget        bytes that active utterances and resident voices may take
    largest_step  latents over all rows of the largest captured step, whose own keys come on top
    """
    config = dit.config
    keys = int(_SLACK * budget) // (config.num_layers * 2 * config.model_size * dit.dtype.itemsize) + largest_step
    return Arena(config.num_layers, config.num_heads, config.head_dim, keys, dtype=dit.dtype, device=dit.device)


def decoder_slots(autoencoder: Autoencoder, jobs: int, free: int) -> int:
    """How many decoder states there is room for: enough for all jobs, if a share of the free memory holds them."""
    one = torch.zeros(1, autoencoder.config.latent_dim, 1, dtype=autoencoder.dtype, device=autoencoder.device)
    with torch.inference_mode():
        state_bytes = sum(tail.nbytes for tail in autoencoder.decode_piece(one)[1])
    return max(_FEWEST_SLOTS, min(_SLOTS_PER_JOB * jobs, int(_SLOT_SHARE * free) // state_bytes))


def _can_compile(name: str, device: torch.device) -> bool:
    reason = obstacle(device)
    if reason is not None:
        log.info("%s is not compiled: %s", name, reason)
    return reason is None
