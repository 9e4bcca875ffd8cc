"""Stages of the model's parts: golden vectors, capturing and what happens when it fails, encoders."""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict
from functools import partial

import torch

from bench import roofline
from bench.golden import Check, Golden, exact_float32
from bench.light import child
from bench.light.journal import Log
from bench.light.light import Light
from bench.light.rows import random_rows
from bench.light.steps import DEVIATION
from bench.roofline import synchronize
from echo.engines.accelerate import make_arena
from echo.model.cuda.deviation import relative_deviation
from echo.model.cuda.graphs import CapturedForward
from echo.model.network.dit import EchoDiT

#: Buckets and rows of the captured golden forward, and bytes of its keys.
_BUCKETS, _ROWS, _BYTES = (32, 96), 8, 16 * 2**20


def golden(light: Light, log: Log) -> None:
    """The reference's vectors, in float32 without TF32 and in bfloat16; bfloat16 also captured."""
    vectors = Golden(light.device, light.vectors)

    def capture(dit: EchoDiT) -> None:
        dit.fuse()
        dit.arena = make_arena(dit, _BYTES, _BUCKETS[-1])
        dit.captured = forward = CapturedForward(dit, dit.arena, max_rows=_ROWS, buckets=_BUCKETS, **light.stand_ins())
        if not forward.start():
            raise RuntimeError("the golden model's steps cannot be captured")

    with exact_float32():
        for check in (
            vectors.bfloat16,
            partial(vectors.bfloat16, capture),
            vectors.decoder,
            partial(vectors.sampler, "blockwise"),
            partial(vectors.sampler, "oneshot"),
        ):
            if log.time_left < 0:
                log.note("no time for the other checks")
                return
            found: Check = check()
            log.row(kind="check", **asdict(found))
            log.bounded(found.name, found.deviation, found.bound)


def capture(light: Light, log: Log) -> None:
    """Capture the steps as they were written; deviations by bucket; a capture that fails, in a process of its own."""
    begun = time.perf_counter()
    dit = light.model.dit
    synchronize(light.device)
    log.figure("making a model with random weights", time.perf_counter() - begun, "s")
    forward = light.forward()
    before = torch.cuda.mem_get_info(light.device)[0] if light.on_cuda else 0
    begun = time.perf_counter()
    if not forward.start():
        raise RuntimeError("the steps cannot be captured; the notes say why")
    log.figure(f"capturing {len(light.shapes.buckets)} buckets, uncompiled", time.perf_counter() - begun, "s")
    if light.on_cuda:
        taken = before - torch.cuda.mem_get_info(light.device)[0]
        log.figure("memory of the graphs", taken / 2**30, "GiB")
    dit.captured = forward
    for latents in light.shapes.shown:
        step = random_rows(dit, latents)
        log.bounded(
            f"{latents} latents: deviation from row by row",
            relative_deviation(step.velocity(dit), step.as_written(dit)),
            DEVIATION,
        )
    log.bounded("steps that were not captured", forward.misses, 0)
    child.run("capture", light, log)


def encoders(light: Light, log: Log) -> None:
    """Texts of new lengths as they were written, with cuDNN's attention off and on; texts and prefixes captured."""
    _captured_encoders(light, log)
    _new_texts(light, log)


def _new_texts(light: Light, log: Log) -> None:
    dit = light.dit()  # its encoders are not compiled
    lengths = light.shapes.new_texts
    settings = {"off": lengths[::2], "on": lengths[1::2]} if light.on_cuda else {"off": lengths}
    dit.text_keys(torch.ones(7, dtype=torch.int32, device=light.device))
    for name, some in settings.items():
        torch.backends.cuda.enable_cudnn_sdp(name == "on")
        first, later = [], []
        try:
            for tokens in some:
                ids = torch.randint(1, 255, (tokens,), dtype=torch.int32, device=light.device)
                with torch.inference_mode():
                    timing = light.time(partial(dit.text_keys, ids))
                first.append(timing.first_ms)
                later.append(timing.ms)
                log.row(kind="new text", cudnn_attention=name, tokens=tokens, first_ms=timing.first_ms, ms=timing.ms)
                if log.time_left < 1:
                    break
        finally:
            torch.backends.cuda.enable_cudnn_sdp(False)
        log.figure(f"text of a new length, cuDNN's attention {name}: slowest first call", max(first), "ms")
        log.figure(f"the same lengths again, cuDNN's attention {name}: median", statistics.median(later), "ms")


def _captured_encoders(light: Light, log: Log) -> None:
    missed = light.acceleration().misses
    dit, config = light.model.dit, light.shapes.dit
    width = light.shapes.dtype.itemsize
    shown = light.shapes.texts[min(1, len(light.shapes.texts) - 1)]
    for tokens in light.shapes.texts:
        ids = torch.randint(1, 255, (tokens,), dtype=torch.int32)
        timing = light.time(partial(dit.encode_text, ids))
        floor = light.floor_ms(roofline.text_encoder(config, tokens, width))
        log.row(kind="text", tokens=tokens, floor_ms=floor, **asdict(timing))
        if tokens == shown:
            log.figure(f"text of {tokens} tokens, captured", timing.ms, "ms", floor=floor)
    for count in light.shapes.patches:
        patches = torch.randn(count, config.speaker_patch_size * config.latent_size, device=light.device)
        with torch.inference_mode():
            timing = light.time(partial(dit.encode_prefix, patches, None))
        floor = light.floor_ms(roofline.latent_encoder(config, count, width))
        log.row(kind="prefix", patches=count, floor_ms=floor, **asdict(timing))
        if count == light.shapes.patches[0]:
            log.figure(f"prefix of {count} patches, captured", timing.ms, "ms", floor=floor)
    log.bounded("texts and prefixes that were not captured", light.acceleration().misses - missed, 0)
