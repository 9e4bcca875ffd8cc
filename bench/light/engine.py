"""The stage of one stream: its first frame by parts, its real-time factor, hang-ups, and a device that is lost."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

from bench import goals
from bench.light import child
from bench.light.journal import Log
from bench.light.light import Light
from bench.playback import percentiles
from bench.roofline import Cost, decode, step, synchronize, text_encoder
from echo.engines.block import BlockEngine
from echo.types import SAMPLE_RATE, Audio, Utterance, VoiceState

#: Texts as they come; each utterance begins in another place, so that no two have the same length.
_TEXT = (
    "The library is open every day except Sunday, and it has a reading room on the upper floor, where you may stay "
    "as long as you like."
)
#: Seconds kept for hang-ups, parts and the lost device.
_FOR_THE_REST_S = 25.0
#: First utterances that do not count.
_WARM = 2
#: Seconds between two looks whether a stream has ended.
_LOOK_S = 2e-4


def utterance(light: Light, voice: VoiceState | None, number: int) -> Utterance:
    """An utterance with a text and a seed of its own."""
    begin = number % (len(_TEXT) // 2)
    return Utterance(text=_TEXT[begin:], plan=light.shapes.plan(), seed=number, voice=voice)


def clip(seconds: float) -> Audio:
    """A synthetic voice: a gliding tone with noise."""
    t = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    noise = np.random.default_rng(0).standard_normal(len(t))
    return np.asarray(0.1 * np.sin(2 * np.pi * (150 + 20 * np.sin(3 * t)) * t) + 0.01 * noise, np.float32)


def engine(light: Light, log: Log) -> None:
    """One stream at a time through the engine, then what its first frame consists of."""
    light.acceleration()
    with light.engine() as running:
        begun = time.perf_counter()
        voice = running.encode_voice(clip(light.shapes.voice_s)).result()
        log.figure(f"encoding a voice of {light.shapes.voice_s:g} s", 1000 * (time.perf_counter() - begun), "ms")
        _one_at_a_time(light, running, voice, log)
        _hang_ups(light, running, voice, log)
        log.bounded("calls that were not compiled or captured", running.workload().shape_misses, 0)
    _parts(light, voice, log)
    child.run("poison", light, log)


def _one_at_a_time(light: Light, running: BlockEngine, voice: VoiceState, log: Log) -> None:
    first, factors = list[float](), list[float]()
    for number in range(_WARM + light.shapes.first_frames):
        begun = time.perf_counter()
        stream = running.speak(utterance(light, voice, number))
        samples = len(next(stream).samples)
        arrived = time.perf_counter() - begun
        samples += sum(len(frame.samples) for frame in stream)
        took = time.perf_counter() - begun
        if number >= _WARM:
            first.append(1000 * arrived)
            factors.append(took / (samples / SAMPLE_RATE))
        log.row(kind="utterance", first_frame_ms=1000 * arrived, seconds=took, audio_s=samples / SAMPLE_RATE)
        if number >= _WARM and log.time_left < _FOR_THE_REST_S:
            break
    floor = _first_frame_floor_ms(light)
    log.goal(goals.ENGINE_FIRST_FRAME, statistics.median(first), floor=floor)
    log.figure("first frame in the engine, one stream, p95", percentiles(first)["p95"] or 0.0, "ms")
    log.goal(goals.REAL_TIME_FACTOR, statistics.median(factors))


def _hang_ups(light: Light, running: BlockEngine, voice: VoiceState, log: Log) -> None:
    """Leave at different moments after the first frame; until the stream has ended and the device has nothing to do."""
    left = list[float]()
    for number in range(light.shapes.hang_ups):
        stream = running.speak(utterance(light, voice, 1000 + number))
        next(stream)
        time.sleep(number % 10 / 500)
        if stream.finished:
            continue
        begun = time.perf_counter()
        stream.cancel()
        while not stream.finished:
            time.sleep(_LOOK_S)
        synchronize(light.device)
        left.append(1000 * (time.perf_counter() - begun))
    log.row(kind="hang-ups", ms=left)
    if left:
        log.goal(goals.HANG_UP, percentiles(left)["p99"] or 0.0)
    else:
        log.note("every utterance had ended before its listener left")


def _parts(light: Light, voice: Any, log: Log) -> None:
    """The parts of a first frame, each waited for, with the time that the host spends on them."""
    model, plan = light.model, light.shapes.plan()
    block = plan.blocks[0]
    spent: dict[str, list[tuple[float, float]]] = {}

    def part(name: str, begun: float) -> None:
        returned = time.perf_counter()
        synchronize(light.device)
        spent.setdefault(name, []).append((1000 * (time.perf_counter() - begun), 1000 * (returned - begun)))

    for number in range(light.shapes.first_frames):
        begun = time.perf_counter()
        conditions = model.conditions(model.tokenize(utterance(light, None, number).text), voice)
        part("text and voice", begun)
        begun = time.perf_counter()
        sampler = model.sampler(conditions, model.empty_prefix(), block, plan.params, (number, 0, 0, 0))
        part("noise and schedule", begun)
        begun = time.perf_counter()
        model.step([sampler])
        part("first step, with packing", begun)
        begun = time.perf_counter()
        while not sampler.done:
            model.step([sampler])
        part("the other steps", begun)
        begun = time.perf_counter()
        fetch = model.decode([None], [sampler.latents])
        part("decoding", begun)
        begun = time.perf_counter()
        fetch()
        part("copy to the host", begun)
    for name, taken in spent.items():
        whole, host = (statistics.median(values) for values in zip(*taken, strict=True))
        log.row(kind="part", name=name, ms=whole, host_ms=host)
        log.figure(f"part: {name}", whole, "ms")


def _first_frame_floor_ms(light: Light) -> float:
    """The least a first frame can take: a text, the guided and unguided steps of the first block, decoding it."""
    config, plan, width = light.shapes.dit, light.shapes.plan(), light.shapes.dtype.itemsize
    block, params = plan.blocks[0], plan.params
    tokens = len(_TEXT)
    voice_keys = round(light.shapes.voice_s * SAMPLE_RATE / 2048 / config.speaker_patch_size)
    keys = [tokens + voice_keys, voice_keys, tokens]
    whole = Cost(0.0, 0.0) + text_encoder(config, tokens, width)
    total = light.floor_ms(whole)
    for number in range(block.steps):
        t = 1 - number / block.steps
        guided = params.cfg_min_t <= t <= params.cfg_max_t
        total += light.floor_ms(step(config, block.size, keys if guided else keys[:1], width))
    dtype = "tf32" if light.on_cuda else "float32"
    return total + light.floor_ms(decode(light.shapes.autoencoder, block.size, 4), dtype)
