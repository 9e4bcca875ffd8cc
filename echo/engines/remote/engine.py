"""RemoteEngine: an engine in a child process behind the engine interface."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future

from typing_extensions import override

from echo.engines.base import Engine
from echo.engines.remote.config import RemoteConfig
from echo.engines.remote.health import RemoteRules
from echo.engines.remote.messages import Ready
from echo.engines.remote.supervisor import Supervisor
from echo.engines.remote.voice import NamedVoice, RemoteVoice
from echo.errors import BadRequest
from echo.stream import FrameStream
from echo.types import SAMPLE_RATE, Audio, ChunkRules, EngineInfo, EngineOption, Utterance, VoiceState, Workload

#: Bytes of the longest character in UTF-8.
_CHARACTER = 4


class RemoteEngine(Engine):
    """Speaks in a child process, which it starts again when it fails. The queue and the voices stay here.

    Blocks until the process is ready; raises LoadError where it does not get there.
    """

    def __init__(
        self, config: RemoteConfig, *, rules: RemoteRules | None = None, environment: Mapping[str, str]
    ) -> None:
        self._supervisor = Supervisor(config, rules or RemoteRules(idle_stop=config.table.idle_stop_s), environment)
        self._ready = self._supervisor.first_ready.result()
        self._info = describe(self._ready)

    @property
    @override
    def info(self) -> EngineInfo:
        return self._info

    @property
    def pid(self) -> int | None:
        """Number of the process; None while there is none."""
        return self._supervisor.pid

    @override
    def workload(self) -> Workload:
        return self._supervisor.workload()

    @override
    def prepare(self, utterance: Utterance) -> Utterance:
        for voice in (utterance.voice, utterance.emotion_voice):
            if isinstance(voice, RemoteVoice):
                voice.key  # noqa: B018 - computed here, not where others wait
        return utterance

    @override
    def queue_wait(self, utterance: Utterance | None = None) -> float:
        return self._supervisor.queue_wait()

    @override
    def encode_voice(self, audio: Audio) -> Future[VoiceState]:
        """Return the clip, as much of it as the engine uses; its process encodes it when it first speaks with it."""
        limits, encoded = self._ready.limits, Future[VoiceState]()
        if not self._ready.capabilities.clone:
            reason = BadRequest("voice: this engine speaks with voices of its own and takes no clip.", param="voice")
            encoded.set_exception(reason)
        elif len(audio) < limits.clip_min_s * SAMPLE_RATE:
            reason = BadRequest(
                f"voice: the clip has {len(audio) / SAMPLE_RATE:.1f} s; this engine needs {limits.clip_min_s:g} s.",
                param="voice",
            )
            encoded.set_exception(reason)
        else:
            most = len(audio) if limits.clip_max_s is None else round(limits.clip_max_s * SAMPLE_RATE)
            encoded.set_result(RemoteVoice(audio[:most].copy() if most < len(audio) else audio))
        return encoded

    @override
    def own_voice(self, name: str) -> VoiceState | None:
        if not self._ready.capabilities.named or not self._ready.voices:
            return None
        # A name, or a mixture of names, as the engine's adapter understands it: a*0.6+b*0.4.
        parts = {part.partition("*")[0].strip() for part in name.split("+")}
        return NamedVoice(name) if parts <= set(self._ready.voices) else None

    @override
    def speak(self, utterance: Utterance) -> FrameStream:
        return self._supervisor.submit(utterance)

    @override
    def warm_up(self, utterance: Utterance) -> None:
        for _ in self.speak(utterance):
            pass

    @override
    def finish_warm_up(self) -> None:
        self._supervisor.reset_pace()

    @override
    def healthy(self) -> bool:
        return self._supervisor.alive

    @override
    def available(self) -> bool:
        return self._supervisor.available

    @override
    def give_up(self) -> None:
        self._supervisor.give_up()

    @override
    def close(self) -> None:
        self._supervisor.close()


def describe(ready: Ready) -> EngineInfo:
    """Return what the server needs to know of an engine that has said what it is."""
    limits, can = ready.limits, ready.capabilities
    rules = ChunkRules()
    target = rules.target_s if limits.max_s is None else min(rules.target_s, limits.max_s)
    return EngineInfo(
        name=ready.name,
        preset_family=ready.name,
        sample_rate=ready.sample_rate,
        device=ready.device,
        backend=f"{ready.name} {ready.version}".strip(),
        license=ready.license,
        blocks=False,
        options=tuple(
            EngineOption(name=option.name, kind=option.type, least=option.min, most=option.max, default=option.default)
            for option in ready.options
        ),
        clones=can.clone,
        voices=ready.voices if can.named else (),
        streams=can.stream,
        languages=can.languages,
        emotions=frozenset(can.emotion),
        concurrent=limits.concurrent,
        chunk_rules=ChunkRules(
            target_s=target,
            min_s=min(rules.min_s, target),
            max_s=max(target, rules.max_s if limits.max_s is None else min(rules.max_s, limits.max_s)),
            max_chars=limits.max_chars,
            max_bytes=rules.max_bytes if limits.max_chars is None else _CHARACTER * limits.max_chars,
        ),
    )
