"""The messages between the server and an engine's process: msgpack maps whose field ``t`` names their kind."""

from __future__ import annotations

from typing import Any

import msgspec

#: Version of the protocol; both ends refuse another one.
PROTOCOL = 1
#: Longest message that is read, in bytes. The longest that is meant to come is 24 minutes of audio at 48 kHz.
MAX_BYTES = 256 * 2**20


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="t"):
    """A message; the other end ignores fields that it does not know."""


# -- server -> child


class Hello(_Message, frozen=True, kw_only=True, tag="hello"):
    """First message: the engine's table of the configuration, with the full path of its adapter."""

    protocol: int = PROTOCOL
    engine: dict[str, Any]


class Voice(_Message, frozen=True, kw_only=True, tag="voice"):
    """A reference clip: float32 mono at ``rate`` Hz. ``key`` is the hash of its samples."""

    id: int
    key: str
    rate: int
    pcm: bytes


class Forget(_Message, frozen=True, kw_only=True, tag="forget"):
    """The voice of this key will not be asked for again."""

    key: str


class Speak(_Message, frozen=True, kw_only=True, tag="speak"):
    """A text to speak, with a voice that was sent (``key``), one of the engine's own (``name``), or its default one.

    ``emotion_key`` is that of a clip that was sent, whose emotion the speech is to have. ``credit`` is the number of
    samples that may be sent before more is granted.
    """

    id: int
    text: str
    seed: int
    credit: int
    key: str | None = None
    name: str | None = None
    emotion_key: str | None = None
    options: dict[str, Any] = {}


class Credit(_Message, frozen=True, kw_only=True, tag="credit"):
    """So many more samples of a job may be sent."""

    id: int
    samples: int


class Cancel(_Message, frozen=True, kw_only=True, tag="cancel"):
    """Nobody listens to this job any more; it ends with ``done``."""

    id: int


class Ping(_Message, frozen=True, kw_only=True, tag="ping"):
    """Asks for a ``pong``."""

    n: int


class Shutdown(_Message, frozen=True, kw_only=True, tag="shutdown"):
    """The process is to end when its jobs have, and at the latest in ``grace_s`` seconds."""

    grace_s: float


# -- child -> server


class Loading(_Message, frozen=True, kw_only=True, tag="loading"):
    """What the engine is doing before it is ready."""

    stage: str


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine can do. ``stream`` is what it sends its audio by."""

    clone: bool = False
    named: bool = False
    stream: str = "utterance"
    emotion: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine can take: characters and seconds of an utterance, seconds of a clip, jobs at a time."""

    max_chars: int | None = None
    max_s: float | None = None
    clip_min_s: float = 0.0
    clip_max_s: float | None = None
    concurrent: int = 1


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """An option of ``speak``."""

    name: str
    type: str
    min: float | None = None
    max: float | None = None
    default: Any = None


class Ready(_Message, frozen=True, kw_only=True, tag="ready"):
    """The engine is loaded: what it is and can do."""

    protocol: int
    name: str
    sample_rate: int
    version: str = ""
    device: str = "cpu"
    license: str = "unknown"
    capabilities: Capabilities = Capabilities()
    limits: Limits = Limits()
    options: tuple[Option, ...] = ()
    voices: tuple[str, ...] = ()


class Voiced(_Message, frozen=True, kw_only=True, tag="voiced"):
    """The voice of this key is encoded and takes so many bytes."""

    id: int
    key: str
    nbytes: int = 0


class Samples(_Message, frozen=True, kw_only=True, tag="audio"):
    """Audio of a job, float32 mono at the engine's rate; ``seq`` counts from 0. ``last``: nothing follows."""

    id: int
    seq: int
    pcm: bytes
    last: bool = False


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """What a job took; times in milliseconds."""

    first_ms: float = 0.0
    total_ms: float = 0.0
    samples: int = 0
    tokens: int = 0


class Done(_Message, frozen=True, kw_only=True, tag="done"):
    """A job has ended."""

    id: int
    cancelled: bool = False
    truncated: bool = False
    stats: Stats = Stats()


class Failure(_Message, frozen=True, kw_only=True, tag="error"):
    """A job has failed, or with no ``id`` the engine; after a ``fatal`` one the process ends.

    Codes: bad_option, voice_missing, voice_unknown, voice_rejected, too_long, out_of_memory, failed. The message is for
    the log; that of bad_option begins with the option's name and a colon.
    """

    id: int | None = None
    code: str
    message: str = ""
    fatal: bool = False


class Pong(_Message, frozen=True, kw_only=True, tag="pong"):
    """The process lives; ``steps`` grows while it works. ``memory`` in bytes."""

    n: int
    steps: int = 0
    busy_id: int | None = None
    memory: int = 0


FromServer = Hello | Voice | Forget | Speak | Credit | Cancel | Ping | Shutdown
FromChild = Loading | Ready | Voiced | Samples | Done | Failure | Pong

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[FromChild] = msgspec.msgpack.Decoder(FromChild)


def encode(message: FromServer) -> bytes:
    """Return the bytes of a message to a child."""
    return _encoder.encode(message)


def decode(data: bytes) -> FromChild:
    """Return a child's message; raises msgspec.DecodeError for anything else."""
    return _decoder.decode(data)
