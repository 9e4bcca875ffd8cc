"""What is counted of every speech, per model, under this server's names and those of vLLM-Omni and SGLang-Omni."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from echo.errors import FAILURES
from echo.stats import SpeechStats

#: Label of the model on every metric here; both engines, and vLLM itself, call it so.
MODEL = "model_name"

#: Seconds; the first-audio targets (40 ms, 400 ms) and a client's patience (30 s) each fall on a border.
LATENCY_BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.15, 0.25, 0.4, 0.6, 1.0, 2.0, 5.0, 10.0, 30.0)
#: Seconds of a whole answer and of its audio, up to the length of a long text.
_LENGTH_BUCKETS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
#: Seconds per second of audio; 1 is real time.
_RTF_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0, 1.2, 1.5, 2.0, 4.0)
#: A stream whose longest gap is shorter sounds continuous: vLLM-Omni's AUDIO_CONTINUITY_DEFAULT_THRESHOLD_S = 0.1,
#: https://docs.vllm.ai/projects/vllm-omni/en/stable/api/vllm_omni/metrics/definitions/
_CONTINUOUS_S = 0.1
_UNDERRUN_BUCKETS = (0.0, 0.02, 0.05, _CONTINUOUS_S, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
#: Seconds; a step on a GPU takes milliseconds, on a CPU up to a second.
_CANCEL_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

#: ``finished_reason`` of an outcome, in vLLM's words: https://docs.vllm.ai/projects/vllm-omni/en/stable/usage/metrics/
FINISHED_REASONS = {"done": "stop", "failed": "error", "cancelled": "abort"}


class Alias(Collector):
    """Exports a metric a second time, under another name: what is counted is the same.

    ``relabel`` makes the labels of the copy from those of a sample.
    """

    def __init__(
        self,
        metric: Collector,
        name: str,
        registry: CollectorRegistry,
        relabel: Callable[[Mapping[str, str]], dict[str, str]] = dict,
    ) -> None:
        self._metric, self._name, self._relabel = metric, name, relabel
        registry.register(self)

    @override
    def collect(self) -> Iterator[Metric]:
        for family in self._metric.collect():
            copy = Metric(self._name, f"The same as {family.name}. {family.documentation}", family.type)
            for sample in family.samples:
                suffix = sample.name.removeprefix(family.name)
                if suffix != "_created":
                    copy.add_sample(self._name + suffix, self._relabel(sample.labels), sample.value)
            yield copy


class SpeechMetrics:
    """The metrics of speech; ``of`` gives those of one model.

    Names without ``echo_`` are those that vLLM-Omni documents (Production Metrics, the address above), without its
    prefix ``vllm:omni_``, because a colon is for recording rules; SGLang-Omni has the same figures. Where this server
    had a name already, theirs is an alias.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, [MODEL, *labels], registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, text, [MODEL], buckets=buckets, registry=registry)

        self.requests = counter("echo_requests", "Speech requests by outcome.", "outcome")
        self.failures = counter("echo_failures", "Speech requests that failed after they had begun.", "reason")
        self.audio_seconds = counter("echo_audio_seconds", "Audio generated, in seconds.")
        self.blocks = counter("echo_blocks", "Blocks of audio generated.")
        self.rerolls = counter("echo_rerolls", "Blocks generated again because of a silence.")
        self.first_frame = histogram(
            "echo_first_frame_seconds", "Request to first audio, of streamed answers.", LATENCY_BUCKETS
        )
        self.cancel = histogram(
            "echo_cancel_seconds", "Hang-up to the moment when the device is free of the utterance.", _CANCEL_BUCKETS
        )
        self.queue_time = histogram(
            "request_queue_time_seconds", "Wait of a request's first utterance for the device.", LATENCY_BUCKETS
        )
        self.latency = histogram("e2e_request_latency_s", "Request to the end of its audio.", _LENGTH_BUCKETS)
        self.duration = histogram("audio_duration_s", "Seconds of audio of an answer.", _LENGTH_BUCKETS)
        self.rtf = histogram("audio_rtf", "Time of generation over seconds of audio, of an answer.", _RTF_BUCKETS)
        self.underrun = histogram(
            "audio_underrun_s", "Longest gap that a listener of a streamed answer hears.", _UNDERRUN_BUCKETS
        )
        self.continuity = counter(
            "audio_continuity_ok", "Streamed answers whose longest gap is at most the threshold.", "threshold_ms"
        )
        Alias(self.first_frame, "audio_ttfp_s", registry)
        Alias(self.requests, "requests_success", registry, _by_finished_reason)

    def of(self, model: str) -> ModelMetrics:
        """Return the metrics of one model; the counters begin at 0, so that a first event is seen as an increase."""
        return ModelMetrics(self, model)


class ModelMetrics:
    """Counts what the speeches of one model have done."""

    def __init__(self, metrics: SpeechMetrics, model: str) -> None:
        self.model = model
        self._requests = {outcome: metrics.requests.labels(model, outcome) for outcome in FINISHED_REASONS}
        self._failures = {reason: metrics.failures.labels(model, reason) for reason in FAILURES}
        self._audio_seconds = metrics.audio_seconds.labels(model)
        self._blocks = metrics.blocks.labels(model)
        self._rerolls = metrics.rerolls.labels(model)
        self._first_frame = metrics.first_frame.labels(model)
        self._cancel = metrics.cancel.labels(model)
        self._queue_time = metrics.queue_time.labels(model)
        self._latency = metrics.latency.labels(model)
        self._duration = metrics.duration.labels(model)
        self._rtf = metrics.rtf.labels(model)
        self._underrun = metrics.underrun.labels(model)
        self._continuous = metrics.continuity.labels(model, f"{1000 * _CONTINUOUS_S:.0f}")

    def cancelled_early(self) -> None:
        """Count a listener who has left before there was anything to measure."""
        self._requests["cancelled"].inc()

    def freed(self, seconds: float) -> None:
        """Count the time from a hang-up until the device was free of an utterance; from any thread."""
        self._cancel.observe(seconds)

    def count(self, stats: SpeechStats) -> None:
        """Count a speech that has ended."""
        self._requests[stats.outcome].inc()
        if stats.failure is not None:
            self._failures[stats.failure].inc()
        self._audio_seconds.inc(stats.audio_s)
        self._blocks.inc(stats.blocks)
        self._rerolls.inc(stats.rerolls)
        if stats.background:
            return  # how long it takes says nothing about those who listen
        if stats.queue_s is not None:
            self._queue_time.observe(stats.queue_s)
        if stats.streamed and stats.first_frame_s is not None:
            self._first_frame.observe(stats.first_frame_s)
            self._underrun.observe(stats.underrun_s)
            if stats.underrun_s <= _CONTINUOUS_S:
                self._continuous.inc()
        if stats.outcome != "done" or stats.total_s is None:
            return
        self._latency.observe(stats.total_s)
        self._duration.observe(stats.audio_s)
        if stats.audio_s and stats.generation_s:
            self._rtf.observe(stats.generation_s / stats.audio_s)


def _by_finished_reason(labels: Mapping[str, str]) -> dict[str, str]:
    return {MODEL: labels[MODEL], "finished_reason": FINISHED_REASONS[labels["outcome"]]}
