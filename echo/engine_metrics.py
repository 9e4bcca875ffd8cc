"""What every engine has to do at the moment: read from the engines whenever the metrics are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from echo.speech_metrics import MODEL
from echo.types import DeviceMemory, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFigures:
    """One engine at one moment; ``memory`` None: not on CUDA, or not read yet. ``available``: as of the engine."""

    model: str
    open_streams: int
    workload: Workload
    available: bool = True
    memory: DeviceMemory | None = None


Figure = Callable[[EngineFigures], float | None]

#: Names, what they say, and where it is read. The second names are vLLM's, and so vLLM-Omni's and SGLang's
#: (https://docs.vllm.ai/en/latest/usage/metrics/): what they schedule is a request, here it is an utterance.
_GAUGES: tuple[tuple[tuple[str, ...], str, Figure], ...] = (
    (("echo_engine_available",), "0 while an engine recovers from a failure by itself.", lambda f: f.available),
    (
        ("echo_engine_process_bytes",),
        "Host memory of an engine's own process.",
        lambda f: f.workload.process_bytes,
    ),
    (("echo_open_streams",), "Requests that hold a slot.", lambda f: f.open_streams),
    (
        ("echo_active_utterances", "num_requests_running"),
        "Utterances being generated.",
        lambda f: f.workload.active,
    ),
    (
        ("echo_waiting_utterances", "num_requests_waiting"),
        "Utterances that wait for capacity.",
        lambda f: f.workload.waiting,
    ),
    (
        ("echo_queue_wait_seconds",),
        "Estimated wait of a request that came now.",
        lambda f: f.workload.queue_wait_s,
    ),
    (("echo_kv_bytes",), "Device memory reserved for active utterances.", lambda f: f.workload.nbytes),
    (("echo_kv_budget_bytes",), "The most that may be reserved.", lambda f: f.workload.max_nbytes),
    (
        ("echo_shape_misses",),
        "Calls since the warm-up whose shape was neither compiled nor captured.",
        lambda f: f.workload.shape_misses,
    ),
    (
        ("echo_device_busy_seconds",),
        "Time that the oldest piece of work on the device has taken so far.",
        lambda f: f.workload.busy_s,
    ),
    (
        ("echo_device_memory_allocated_bytes",),
        "CUDA memory of this process that holds tensors.",
        lambda f: f.memory.allocated if f.memory is not None else None,
    ),
    (
        ("echo_device_memory_reserved_bytes",),
        "CUDA memory that this process's allocator keeps, the allocated part included.",
        lambda f: f.memory.reserved if f.memory is not None else None,
    ),
    (
        ("echo_device_memory_free_bytes",),
        "CUDA memory that no process has taken.",
        lambda f: f.memory.free if f.memory is not None else None,
    ),
    (
        ("echo_device_memory_total_bytes",),
        "CUDA memory of the device.",
        lambda f: f.memory.total if f.memory is not None else None,
    ),
)

_COUNTERS: tuple[tuple[str, str, Callable[[Workload], int | None]], ...] = (
    (
        "echo_steps",
        "Steps that the device has done; of an engine in a process, pieces of audio.",
        lambda load: load.steps,
    ),
    (
        "echo_out_of_memory",
        "Pieces of work for which the device had no memory, also where smaller ones then fitted.",
        lambda load: load.out_of_memory,
    ),
    (
        "echo_engine_restarts",
        "Processes of an engine that have failed, and were started again.",
        lambda load: load.restarts,
    ),
)


class EngineCollector(Collector):
    """Exports the figures of all engines; none before they are loaded."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._read: Callable[[], Iterable[EngineFigures]] = tuple
        registry.register(self)

    def watch(self, read: Callable[[], Iterable[EngineFigures]]) -> None:
        """Have ``read`` called, once for all metrics, whenever they are exported."""
        self._read = read

    @override
    def collect(self) -> Iterator[Metric]:
        engines = list(self._read())
        for names, text, figure in _GAUGES:
            for name in names:
                gauge = GaugeMetricFamily(name, text, labels=[MODEL])
                for engine in engines:
                    if (value := figure(engine)) is not None:
                        gauge.add_metric([engine.model], value)
                yield gauge
        for name, text, count in _COUNTERS:
            counter = CounterMetricFamily(name, text, labels=[MODEL])
            for engine in engines:
                if (counted := count(engine.workload)) is not None:
                    counter.add_metric([engine.model], counted)
            yield counter
