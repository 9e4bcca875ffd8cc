"""Stages of the decoder: captured, as it was written, and with compiled activations."""

from __future__ import annotations

import time
from dataclasses import asdict

import torch

from bench import roofline
from bench.light.journal import Log
from bench.light.light import Light, tf32
from bench.roofline import Cost, synchronize
from echo.engines.accelerate import compile_decoder
from echo.model.autoencoder.streaming import StreamingDecoder
from echo.model.cuda.compile import Compiler, obstacle
from echo.model.cuda.decoder import CapturedDecoder
from echo.types import LATENT_SIZE

#: The number format as served: float32, of which torch computes convolutions in TF32 on CUDA.
_SERVED = "as served"


def decoder(light: Light, log: Log) -> None:
    """The captured shapes, from latents on the device to samples on the host; then as it was written."""
    light.acceleration()
    for piece in sorted(light.shapes.pieces, key=lambda piece: piece.streams * piece.latents):
        _timed(light, log, light.model.decoder, piece.streams, piece.latents, _SERVED, "captured")
    if (captured := light.model.decoder.captured) is not None:
        log.bounded("calls without a free slot", getattr(captured, "misses", 0), 0)
    for dtype in light.shapes.decoder_dtypes:
        plain = StreamingDecoder(light.autoencoder(dtype), light.model.pca)
        with tf32(dtype == "tf32"):
            for latents in light.shapes.latents:
                for streams in light.shapes.streams:
                    if log.time_left < 1:
                        log.note(f"no time for more of {dtype} as it was written")
                        return
                    _timed(light, log, plain, streams, latents, dtype, "as written")
        light.free_memory()


def activations(light: Light, log: Log) -> None:
    """The smallest captured shape with and without compiled activations; what compiling them costs."""
    model = light.model
    for how in ("captured", "compiled"):
        autoencoder = light.autoencoder("float32")
        if how == "compiled":
            if reason := obstacle(light.device):
                log.note(f"nothing is compiled: {reason}")
                return
            compiler = compile_decoder(autoencoder, Compiler("the decoder"))
        shapes = light.shapes.pieces[-1:]
        captured = CapturedDecoder(autoencoder, model.pca, slots=16, shapes=shapes, **light.graphs())
        begun = time.perf_counter()
        if not captured.start():
            raise RuntimeError("the decoder cannot be captured; the notes say why")
        synchronize(light.device)
        log.figure(f"start of one shape, {how}", time.perf_counter() - begun, "s")
        if how == "compiled" and not compiler.active:
            raise RuntimeError("the activations cannot be compiled; the notes say why")
        streaming = StreamingDecoder(autoencoder, model.pca)
        streaming.captured = captured
        _timed(light, log, streaming, shapes[0].streams, shapes[0].latents, _SERVED, how, show=True)


def _timed(
    light: Light,
    log: Log,
    streaming: StreamingDecoder,
    streams: int,
    latents: int,
    dtype: str,
    how: str,
    *,
    show: bool = False,
) -> None:
    """Decode the next latents of streams that have begun before."""
    rows = [torch.randn(latents, LATENT_SIZE, device=light.device) for _ in range(streams)]
    begun = time.perf_counter()
    states = [state for _, state in streaming.decode_batch([None] * streams, rows)]
    first_ms = round(1000 * (time.perf_counter() - begun), 4)
    timing = light.time(lambda: streaming.launch(states, rows).fetch())
    one = roofline.decode(light.shapes.autoencoder, latents, 2 if dtype == "bfloat16" else 4)
    ceiling = dtype if dtype != _SERVED else "tf32" if light.on_cuda else "float32"
    floor = light.floor_ms(Cost(streams * one.flops, one.bytes), ceiling)
    values = {**asdict(timing), "first_ms": first_ms}
    log.row(kind="decode", how=how, dtype=dtype, streams=streams, latents=latents, floor_ms=floor, **values)
    named = "" if dtype == _SERVED else f", {dtype}"
    if show or (how == "captured" and streams in (1, 8)) or (how == "as written" and (streams, latents) == (1, 32)):
        log.figure(f"{streams} × {latents} latents, {how}{named}", timing.ms, "ms", floor=floor)
        if how == "as written":
            log.figure(f"{streams} × {latents} latents, {how}{named}: first call", first_ms, "ms")
