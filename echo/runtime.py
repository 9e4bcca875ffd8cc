"""The composition root: settings -> engine, voices, metrics, service. ``async with Runtime(settings)``."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from enum import StrEnum
from types import TracebackType
from typing import Self

from echo.admission import Admission
from echo.audio.join import JoinRules
from echo.debug import Recorder
from echo.decoding.pool import DecoderPool
from echo.drain import Drain
from echo.engine_options import check_options
from echo.engines.base import Engine
from echo.engines.remote.config import read_engines
from echo.engines.table import EngineLoader, find_engines
from echo.errors import BadRequest, ConfigError, DeviceStopped, EchoError, NotReady
from echo.jobs.jobs import JobRules, Jobs
from echo.jobs.record import JobStatus
from echo.jobs.remote import ResultBucket
from echo.jobs.store import JobStore
from echo.limits import RequestLimits
from echo.presets import Presets, read_presets
from echo.quota import Quotas
from echo.service import SpeechService
from echo.services import Services
from echo.settings import Settings, child_environment, traces_exporter
from echo.sizing import sized_plan
from echo.steps import ServiceRules
from echo.telemetry import Metrics
from echo.text import split
from echo.text.normalize import parse_uppercase_words
from echo.text.pack import estimate_seconds
from echo.tracing import Tracing, open_tracing
from echo.types import ChunkRules, EngineInfo, SpeechOptions, TextRules, Utterance, VoiceRef, VoiceState
from echo.vad import SilenceGate, SilenceRules, SpeechDetector
from echo.voices.cache import VoiceCache
from echo.voices.clones import CloneQuota, CloneStore
from echo.voices.cloning import Cloning
from echo.voices.download import BaseUrl, Downloader
from echo.voices.fetched import FetchedVoices
from echo.voices.library import VoiceLibrary, VoiceRules
from echo.voices.remote import RemoteVoices
from echo.voices.turns import TurnRules, Turns

log = logging.getLogger(__name__)

#: Seconds between two looks at whether the device is still there.
_WATCH_S = 0.5
#: Threads for reading clips, encoding audio and VAD: work that releases the interpreter lock.
_WORKERS = 8


class Status(StrEnum):
    """Where the runtime is in its life."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    CLOSING = "closing"
    STOPPED = "stopped"  # the device has; this process will not speak again


class Runtime:
    """Everything with a lifetime. Entering it starts the loading and returns at once; leaving it frees the device.

    Raises ConfigError for settings that contradict what is there, as far as that is known without the model.
    """

    def __init__(self, settings: Settings, load_engine: EngineLoader | None = None) -> None:
        self.settings = settings
        #: Checked first, so that a mistake in them is reported before the model is loaded.
        self._presets = read_presets(settings.presets_path)
        self._loaders = [load_engine] if load_engine else _loaders(settings)
        if not split(settings.warmup_text, _text_rules(settings), ChunkRules()):
            raise ConfigError(f"ECHO_WARMUP_TEXT={settings.warmup_text!r}: there is nothing to speak in it.")
        self.status = Status.LOADING
        #: Why loading failed, or why nothing is spoken any more: one line for the operator.
        self.failure: str | None = None
        self.metrics = Metrics()
        self.drain = Drain(
            settings.drain_s,
            settings.shutdown_grace_s,
            serving=lambda: self.status is Status.READY,
            open_requests=lambda: self._services.open if self._services is not None else 0,
            when_refusing=self._dismiss,
        )
        #: What clients may have spoken; set by whoever knows them.
        self.quotas = Quotas()
        self.metrics.ready.set_function(lambda: self.is_ready)
        self.tracing = open_tracing(traces_exporter())
        self.voices = open_voices(settings)
        #: What strangers send is decoded in processes of their own, and only so many voices at a time.
        self.decoders = DecoderPool(settings.decoders, environment=child_environment(), observe=self.metrics.decoded)
        self.voice_turns = Turns(TurnRules(waiting=settings.voice_queue, waiting_bytes=settings.voice_queue_bytes))
        self.remote = _remote(settings, self.voices, self.decoders, self.metrics, self.tracing)
        self.workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="echo-worker")
        #: In threads of its own: a burst of new voices must not hold up the encoding of audio.
        self.cache = VoiceCache(
            settings.voice_cache_bytes,
            decoders=self.decoders,
            turns=self.voice_turns,
            observe=self.metrics.voice_read,
        )
        #: Long texts; None where the operator has given them no folder.
        self.jobs = jobs = _jobs(settings)
        if jobs is not None:
            self.metrics.watch_jobs(JobStatus, lambda status: jobs.count(JobStatus(status)))
        self.cloning = Cloning(_clones(settings, self.voices, self.decoders), self.voices, self.cache, self.voice_turns)
        self.metrics.watch_voices(self.voice_turns, self.cache.stats, lambda: len(self.decoders.pids))
        self._when_failed: list[Callable[[], None]] = []
        self._engines: list[Engine] = []
        self._services: Services | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def service(self) -> SpeechService:
        """The service of the default engine; raises as ``services``."""
        return self.services.default

    @property
    def services(self) -> Services:
        """The speech services; raises NotReady until all engines are warm, and DeviceStopped when a device has."""
        if self.status is Status.STOPPED:
            raise DeviceStopped
        if self._services is None or self.status is not Status.READY:
            raise NotReady(
                "The model is still loading." if self.status is Status.LOADING else "Not serving.", retry_after_s=5
            )
        return self._services

    @property
    def is_ready(self) -> bool:
        """True while new requests are wanted.

        The default engine is loaded, warm, its device thread alive, and it is not being restarted or drained.
        """
        return self._is_alive and self._engines[0].available() and not self.drain.begun

    @property
    def is_dead(self) -> bool:
        """True when this process will not speak again: the device has stopped."""
        return self.status is Status.STOPPED or (self.status is Status.READY and not self._is_alive)

    @property
    def _is_alive(self) -> bool:
        return self.status is Status.READY and all(engine.healthy() for engine in self._engines)

    @property
    def info(self) -> EngineInfo | None:
        """What the default engine says of itself; None until it is loaded."""
        return self._engines[0].info if self._engines else None

    @property
    def infos(self) -> list[EngineInfo]:
        """What all engines that are loaded say of themselves, the default one first."""
        return [engine.info for engine in self._engines]

    @property
    def engine_states(self) -> dict[str, str]:
        """Per engine whether it is healthy, restarting or stopped."""
        return {engine.info.name: _state(engine) for engine in self._engines}

    @property
    def preset_names(self) -> list[str]:
        """Names of the presets; empty until the engine is loaded."""
        return list(self._services.default.presets.by_name) if self._services is not None else []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._load()), asyncio.create_task(self.metrics.observe_loop())]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.refuse()
        self.drain.close()
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if self.jobs is not None:
            await self.jobs.close()
        await self.cache.close()
        if self.remote is not None:
            await self.remote.close()
        await asyncio.to_thread(self.decoders.close)
        for engine in self._engines:
            await asyncio.to_thread(engine.close)
        self.workers.shutdown(wait=False, cancel_futures=True)
        if self.tracing is not None:
            await asyncio.to_thread(self.tracing.close)

    def refuse(self) -> None:
        """Refuse new requests; open ones go on."""
        if self.status is not Status.STOPPED:
            self.status = Status.CLOSING
        if self._services is not None:
            self._services.refuse()

    def _dismiss(self) -> None:
        if self.jobs is not None:
            self.jobs.dismiss()

    def on_failure(self, notify: Callable[[], None]) -> None:
        """Have ``notify`` called when loading fails, and, with ``ECHO_DEVICE_EXIT``, when the device has stopped."""
        self._when_failed.append(notify)

    async def ready(self) -> None:
        """Wait until the engine is warm; raises EchoError with the operator's line when loading failed."""
        await asyncio.wait(self._tasks[:1])
        if self.failure is not None:
            raise NotReady(self.failure)

    async def _load(self) -> None:
        started = time.monotonic()
        # A thread of its own, that ends: while a thread lives that has computed, its OpenMP workers do, and with more
        # of them than cores they yield the processor at every turn, which halves the speed of the device's thread.
        loader = ThreadPoolExecutor(1, thread_name_prefix="echo-load")
        loading = asyncio.get_running_loop().run_in_executor(loader, self._open_engines)
        loader.shutdown(wait=False)
        try:
            services = await asyncio.shield(loading)
            for service in services:
                await self._warm_up(service)
        except asyncio.CancelledError:
            loading.add_done_callback(lambda done: done.exception())  # closing: nobody waits for it any more
            raise
        except Exception as error:
            message = error.message if isinstance(error, EchoError) else "The model could not be loaded."
            self._fail(Status.FAILED, message, None if isinstance(error, EchoError) else error)
            return
        self._services = services
        self.metrics.watch(services.figures)
        if self.status is Status.LOADING:
            self.status = Status.READY
            log.info("ready after %.1f s", time.monotonic() - started)
            self._tasks.append(asyncio.create_task(self._watch(services)))
            if self.jobs is not None:
                self.jobs.start(services)

    async def _watch(self, services: Services) -> None:
        """Look at the devices until one has stopped; then say so to everybody who waits for it or still comes."""
        while services.healthy:  # noqa: ASYNC110 - what has died or hangs sets no event
            await asyncio.sleep(_WATCH_S)
        if self.status is not Status.READY:
            return  # closing: that the thread ends is as it should be
        reason = DeviceStopped()
        services.refuse(reason)
        services.give_up()
        self._fail(Status.STOPPED, reason.message, notify=self.settings.device_exit)

    def _fail(self, status: Status, message: str, error: Exception | None = None, *, notify: bool = True) -> None:
        self.status, self.failure = status, message
        log.error("%s", message, exc_info=error)
        for each in self._when_failed if notify else ():
            each()

    def _open_engines(self) -> Services:
        settings = self.settings
        gate = None
        if settings.vad_reroll_enabled:
            rules = SilenceRules(threshold_ms=settings.vad_silence_threshold_ms, max_rerolls=settings.vad_max_rerolls)
            gate = SilenceGate(rules, SpeechDetector().silences)
        for load in self._loaders:
            self._engines.append(load(settings, gate))
        names = Counter(engine.info.name for engine in self._engines)
        if twice := [name for name, count in names.items() if count > 1]:
            raise ConfigError(f"ECHO_ENGINES: two engines call themselves {twice[0]}.")
        options = frozenset(option.name for engine in self._engines for option in engine.info.options)
        return Services([self._service_of(engine, options) for engine in self._engines])

    def _service_of(self, engine: Engine, options: frozenset[str]) -> SpeechService:
        """Return an engine's service; ``options`` are the names of those that any engine has of its own."""
        settings, info = self.settings, engine.info
        return SpeechService(
            engine=engine,
            voices=self.voices,
            cache=self.cache,
            presets=self._presets_of(info),
            admission=Admission(
                (settings.max_concurrent or info.concurrent) + settings.max_queue,
                max_wait_s=settings.max_queue_wait_s,
                client_share=settings.client_share,
            ),
            rules=replace(_service_rules(settings, info), engine_options=options),
            workers=self.workers,
            metrics=self.metrics,
            tracing=self.tracing,
            remote=self.remote,
            quotas=self.quotas,
            on_open=Recorder(info.sample_rate, self.workers).watch if settings.debug_logs else None,
        )

    def _presets_of(self, info: EngineInfo) -> Presets:
        settings = self.settings
        if not info.blocks:
            return self._presets.resolve_options(
                info.preset_family,
                settings.performance_preset,
                lambda table: check_options(info, SpeechOptions(), table, known=table),
            )
        return self._presets.resolve(
            info.preset_family,
            settings.performance_preset,
            nonstream_steps=settings.num_steps_nonstream,
            max_latents=info.max_latents,
            max_layers=info.num_layers,
        )

    async def _warm_up(self, service: SpeechService) -> None:
        """Speak as a request without options would, and have the default voice encoded."""
        chunk = split(self.settings.warmup_text, service.rules.text, service.rules.chunks)[0]
        seconds = estimate_seconds(chunk.text, service.rules.chunks.chars_per_s, service.rules.chunks.words_per_s)
        voice = await self._warm_up_voice(service)
        # On a GPU the shapes of each plan are compiled and captured. On a CPU a second plan would only take its time.
        for streaming in (True,) if service.engine.info.device == "cpu" else (True, False):
            plan = sized_plan(service.presets.plan(SpeechOptions(), streaming=streaming), seconds)
            utterance = Utterance(text=chunk.text, plan=plan, seed=0, voice=voice)
            try:
                await asyncio.to_thread(service.engine.warm_up, utterance)
            except BadRequest as error:  # no voice, or one that the engine cannot use: requests may bring another
                log.warning("%s is not warmed up: %s", service.engine.info.name, error.message)
        await asyncio.to_thread(service.engine.finish_warm_up)

    async def _warm_up_voice(self, service: SpeechService) -> VoiceState | None:
        """Return the voice of the warm-up; a file that cannot be read is no reason not to serve the others."""
        try:
            return await service.voice_state(VoiceRef(name=self.settings.warmup_voice or None))
        except BadRequest as error:
            log.warning("the voice of the warm-up cannot be used, so none is: %s", error.message)
            return None


def _state(engine: Engine) -> str:
    if not engine.healthy():
        return "stopped"
    return "healthy" if engine.available() else "restarting"


def _jobs(settings: Settings) -> Jobs | None:
    if settings.jobs_dir is None:
        if settings.jobs_s3:
            raise ConfigError("ECHO_JOBS_S3 needs ECHO_JOBS_DIR: a job's pieces are kept there until it is done.")
        return None
    rules = JobRules(
        parallel=settings.jobs_parallel,
        max_chars=settings.jobs_max_chars,
        most=settings.jobs_waiting,
        most_of_client=max(1, math.ceil(settings.jobs_waiting * settings.client_share)),
        keep_s=settings.jobs_keep_days * 86_400,
    )
    try:
        return Jobs(
            JobStore(settings.jobs_dir.expanduser()),
            rules,
            ResultBucket(settings.jobs_s3) if settings.jobs_s3 else None,
        )
    except OSError as error:
        raise ConfigError(f"ECHO_JOBS_DIR={str(settings.jobs_dir)!r}: {error.strerror}.") from error


def _loaders(settings: Settings) -> list[EngineLoader]:
    setting = "ECHO_ENGINES" if settings.engines else "ECHO_ENGINE"
    return find_engines(settings.engine_names, read_engines(settings.engines_path, settings.engines_dir), setting)


def open_voices(settings: Settings) -> VoiceLibrary:
    """Return the library of the configured voices folders."""
    rules = VoiceRules(
        folders=settings.folder_support, default=settings.default_voice, max_inline_bytes=settings.max_voice_bytes
    )
    fetched = None
    if settings.voice_base_url:
        # The same id is another voice below another base.
        source = hashlib.sha256(settings.voice_base_url.rstrip("/").encode()).hexdigest()[:16]
        fetched = FetchedVoices(settings.cache_dir.expanduser() / "voices" / source, settings.voice_fetched_bytes)
    return VoiceLibrary(settings.voice_folders, rules=rules, aliases=settings.aliases, fetched=fetched)


def _remote(
    settings: Settings, voices: VoiceLibrary, decoders: DecoderPool, metrics: Metrics, tracing: Tracing | None
) -> RemoteVoices | None:
    if voices.fetched is None:
        return None
    try:
        base = BaseUrl.parse(settings.voice_base_url)
    except ValueError as error:
        raise ConfigError(f"ECHO_VOICE_BASE_URL={settings.voice_base_url!r}: {error}.") from None
    return RemoteVoices(
        Downloader(base, settings.max_voice_bytes, headers=tracing.outgoing if tracing is not None else dict),
        voices.fetched,
        decoders,
        timeout_s=settings.voice_fetch_timeout_s,
        observe=lambda outcome: metrics.voice_fetches.labels(outcome).inc(),
    )


def _clones(settings: Settings, voices: VoiceLibrary, decoders: DecoderPool) -> CloneStore:
    return CloneStore(
        voices,
        settings.voice_folders[0],
        max_bytes=settings.inworld_max_sample_size,
        enabled=settings.inworld_clone_enabled,
        quota=CloneQuota(count=settings.max_clones, nbytes=settings.max_clones_bytes),
        decode=decoders.decode,
    )


def _service_rules(settings: Settings, info: EngineInfo) -> ServiceRules:
    chunks = replace(
        info.chunk_rules,
        enabled=settings.chunking,
        chars_per_s=settings.chunk_chars_per_second,
        words_per_s=settings.chunk_words_per_second,
    )
    return ServiceRules(
        text=replace(_text_rules(settings), keep_uppercase=_uppercase_words(settings), spell_out=info.words_only),
        chunks=chunks,
        join=JoinRules(),
        limits=RequestLimits(
            max_input_chars=settings.max_input_chars,
            max_chunks=settings.max_chunks,
            max_pauses_s=settings.max_pauses_s,
            max_audio_s=settings.max_audio_s,
            max_whole_bytes=settings.max_whole_bytes,
        ),
        secondary_streaming=settings.secondary_streaming,
    )


def _text_rules(settings: Settings) -> TextRules:
    return TextRules(normalize_exclamation=settings.normalize_exclamation, strip_markup=settings.strip_markup)


def _uppercase_words(settings: Settings) -> frozenset[str]:
    if settings.uppercase_words_file is None:
        return frozenset()
    try:
        lines = settings.uppercase_words_file.expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("ECHO_UPPERCASE_WORDS_FILE: the file cannot be read as UTF-8 text.") from error
    return parse_uppercase_words(lines)
