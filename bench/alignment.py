"""What times of words cost: the last step of a block with and without its attention to the text, in pairs.

    python -m bench.alignment --threads 1

As many heads are watched as ever are, each in a layer of its own, which is the worst case. Only the last
step of a block hands out its attention. Captured graphs copy the queries in every step, so they are captured anew for
each side of a pair. What is
added is also timed by itself, because on a busy processor pairs differ by more than that; it is the cost there, and the
pair where steps are captured. The way through the text, which a worker thread finds while the device goes on, is timed
by itself, too.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from bench.engines import TEXTS, device_of, load_weights, open_model, reference_clip
from bench.record import make_record, parser, save, settings_from
from bench.text import columns
from echo.model.alignment import MOST_HEADS
from echo.model.echo import EchoModel
from echo.model.network.watch import Heads, Watch, hand_out, keys_of, text_attention
from echo.settings import Settings
from echo.timing.spelling import find_words
from echo.timing.words import WordTimes
from echo.types import SAMPLE_RATE, SAMPLES_PER_LATENT, BlockSpec, SamplerParams

#: Latents of the blocks, those of the presets' first, second and largest.
SIZES = (32, 128, 480)
#: The embedded model's largest block.
_TINY_SIZES = (32, 64, 96)
#: Share of a step that times of words may cost.
LIMIT = 0.02
#: Pairs; on a GPU each is of so many steps, because its graphs are captured for it.
_PAIRS, _CAPTURED_PAIRS, _CAPTURED_STEPS = 80, 4, 100


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__)
    options.add_argument("--pairs", type=int, help="of each size")
    given = options.parse_args()
    record = measure(settings_from(given), given.pairs)
    print(columns(record["results"]["rows"]))
    save([record], given)


def measure(settings: Settings, pairs: int | None = None) -> dict[str, Any]:
    """Measure all sizes and return the record."""
    record = make_record("alignment", settings, device_of(settings))
    model = open_model(settings, load_weights(settings))
    voice = model.encode_voice(reference_clip(5.0))
    conditions = model.conditions(model.tokenize(f"[S1] {TEXTS[2]}"), voice)
    heads = tuple((layer, layer % model.dit.config.num_heads) for layer in _spread(model.dit.config.num_layers))
    sizes = _TINY_SIZES if model.dit.config.model_size < 1024 else SIZES
    rows = [row(model, conditions, heads, size, pairs) for size in sizes]
    within = all(found["cost"] <= LIMIT for found in rows)
    return {**record, "results": {"limit": LIMIT, "within": within, "heads": len(heads), "rows": rows}}


def row(model: EchoModel, conditions: Any, heads: Heads, size: int, pairs: int | None) -> dict[str, Any]:
    """Figures of one size: milliseconds of a step, what the attention adds to it, its share, and those of the path."""
    captured = model.dit.captured is not None
    count = pairs or (_CAPTURED_PAIRS if captured else _PAIRS)
    plain: list[float] = []
    watched: list[float] = []
    for number in range(count + 1):
        sides: list[tuple[Heads, list[float]]] = [((), plain), (heads, watched)]
        for side, found in sides if number % 2 else sides[::-1]:
            _watch(model, side)
            found.append(median_of(lambda: _last_step(model, conditions, size), _CAPTURED_STEPS if captured else 1))
    # The first pair warms up. Other work on the machine only ever adds: the shortest tenth is without much of it.
    step, with_times = _shortest(plain[1:]), _shortest(watched[1:])
    alone = _shortest([_alone_s(model, conditions, heads, size) for _ in range(100)])
    return {
        "latents": size,
        "step_ms": round(1000 * step, 3),
        "paired": round(with_times / step - 1, 4),
        "alone_ms": round(1000 * alone, 3),
        "cost": round((with_times - step if captured else alone) / step, 4),
        "path_ms": round(1000 * _shortest([_path_s(size) for _ in range(20)]), 3),
        "pairs": count,
    }


def _shortest(seconds: Sequence[float]) -> float:
    """The median of the shortest tenth."""
    return statistics.median(sorted(seconds)[: max(1, len(seconds) // 10)])


def median_of(run: Callable[[], float], count: int) -> float:
    """The median of some runs."""
    return statistics.median(run() for _ in range(count))


def _watch(model: EchoModel, heads: Heads) -> None:
    if model.dit.watched == heads:
        return
    model.dit.watched = heads
    capture = getattr(model.dit.captured, "capture", None)
    if capture is not None:
        capture()


def _last_step(model: EchoModel, conditions: Any, size: int) -> float:
    """Seconds of the only step of a block, until the device is done and the host has the attention."""
    sampler = model.sampler(
        conditions, model.empty_prefix(), BlockSpec(size=size, steps=1), SamplerParams(), (0, 0, 0, 0)
    )
    _synchronise(model)
    clock = _clock(model)
    started = clock()
    model.step([sampler])
    fetch = model.text_attention(sampler)
    if fetch is not None:
        fetch()
    _synchronise(model)
    return clock() - started


def _clock(model: EchoModel) -> Callable[[], float]:
    """The thread's own processor time where all is computed in it, which other work on the machine does not change."""
    alone = model.dit.device.type == "cpu" and torch.get_num_threads() == 1
    return time.thread_time if alone else time.perf_counter


@torch.inference_mode()
def _alone_s(model: EchoModel, conditions: Any, heads: Heads, size: int) -> float:
    """Seconds of what the heads add to a step of three rows: copies of queries, and the attention of one row."""
    config = model.dit.config
    q = torch.zeros(3 * size, config.num_heads, config.head_dim, dtype=model.dit.dtype, device=model.dit.device)
    found: list[torch.Tensor] = []

    def attend(queries: torch.Tensor) -> None:
        found.append(text_attention(queries, keys_of(conditions.text, heads)).cpu())

    _synchronise(model)
    clock = _clock(model)
    started = clock()
    queries = model.dit.query_buffer(len(q), heads)
    watch = Watch(heads, queries)
    for layer in range(config.num_layers):
        watch.take(layer, q)
    hand_out(queries, [size] * 3, [attend, None, None])
    return clock() - started


def _synchronise(model: EchoModel) -> None:
    if model.dit.device.type == "cuda":
        torch.cuda.synchronize(model.dit.device)


def _path_s(size: int) -> float:
    """Seconds of a block's way through a text, words and pauses included."""
    text = f"[S1] {TEXTS[2]}"
    tokens = len(text) + 1
    rng = np.random.default_rng(0)
    attention = rng.dirichlet(np.ones(tokens), size).astype(np.float32)
    samples = rng.normal(0, 0.1, size * SAMPLES_PER_LATENT).astype(np.float32)
    times = WordTimes(find_words(TEXTS[2], [text])[0], tokens, SAMPLE_RATE)
    started = time.thread_time()
    times.push(attention, samples)
    times.finish()
    return time.thread_time() - started


def _spread(layers: int) -> list[int]:
    return [layers * number // MOST_HEADS for number in range(MOST_HEADS)]


if __name__ == "__main__":
    main()
