"""The values that flow through the server: requests down, audio frames up.

Standard library and numpy only. *chunk* = text, *block* = latents denoised together, *step* = one Euler step,
*row* = one guidance branch in a batch, *frame* = audio samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal, Protocol, get_args, runtime_checkable

import numpy as np
import numpy.typing as npt

#: Echo-TTS and the S1-DAC decoder work at this rate (Hz), mono.
SAMPLE_RATE = 44_100
SampleRate = Literal[8000, 16000, 22050, 24000, 44100, 48000]
"""Rates that the OpenAI-shaped route offers, in Hz."""
SAMPLE_RATES: tuple[int, ...] = get_args(SampleRate)
#: Audio samples per latent: encoder x512, quantiser x4.
SAMPLES_PER_LATENT = 2_048
#: Seconds of one latent. Plans count in latents for every engine, whatever its own sample rate.
LATENT_S = SAMPLES_PER_LATENT / SAMPLE_RATE
#: Width of one latent after the PCA.
LATENT_SIZE = 80
#: Longest generation the model was trained for, in latents (29.72 s); continuation and new blocks together.
MAX_LATENTS = 640
#: Transformer layers of the largest model, the released one.
MAX_LAYERS = 24
#: Flow time that denoising starts at: just below 1, so that 1 - t stays positive where it divides.
INIT_SCALE = 0.999
#: Longest text in bytes, BOS included.
MAX_TEXT_BYTES = 768

Audio = npt.NDArray[np.float32]
"""Mono samples in -1..1, shape [n]."""
TextAttention = npt.NDArray[np.float32]
"""How much each latent of a block attends to each token of its text, shape [latents, tokens]; rows sum to 1."""


class Encoding(StrEnum):
    """How audio leaves the server."""

    PCM = "pcm"  # s16le, no header
    WAV = "wav"  # 16-bit PCM behind a 44-byte header
    MP3 = "mp3"
    OPUS = "opus"  # Ogg container
    FLAC = "flac"
    AAC = "aac"  # ADTS
    MULAW = "mulaw"  # G.711, no header
    ALAW = "alaw"
    WAV_MULAW = "wav_mulaw"  # G.711 behind a WAV header (format tag 7)
    WAV_ALAW = "wav_alaw"  # (format tag 6)
    F32 = "f32"  # float32 little-endian, no header: what the Python API reads


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioFormat:
    """The output a client asked for; ``sample_rate`` None means the engine's own rate."""

    encoding: Encoding = Encoding.PCM
    sample_rate: int | None = None
    bit_rate: int | None = None
    #: WAV only: send the header at once with 0xFFFFFFFF sizes instead of waiting for the true ones.
    unsized: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class VoiceRef:
    """The voice a request names: a library name, raw bytes of an audio file, or neither (the default voice).

    ``files`` are the clips of a voice that whoever makes the request has found and checked; ``name`` is then its name.
    """

    name: str | None = None
    audio: bytes | None = None
    files: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Emotion:
    """How a request wants to be spoken, for engines whose ``EngineInfo.emotions`` names the fields that it uses.

    ``vector``: happy, angry, sad, afraid, disgusted, melancholic, surprised, calm, each 0..1. ``text`` describes the
    emotion; with ``from_text`` and no ``text`` it is read out of the spoken text. ``random`` varies it.
    """

    clip: VoiceRef | None = None
    vector: tuple[float, ...] | None = None
    alpha: float = 1.0
    from_text: bool = False
    text: str | None = None
    random: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerParams:
    """Sampler settings shared by all blocks of an utterance (ranges: docs/options.md).

    Defaults are the reference pipeline's. ``None`` switches a feature off.
    """

    cfg_scale_text: float = 3.0
    cfg_scale_speaker: float = 8.0
    cfg_min_t: float = 0.5
    cfg_max_t: float = 1.0
    rescale_k: float | None = None
    rescale_sigma: float | None = None
    speaker_kv_scale: float | None = None
    speaker_kv_min_t: float | None = None
    speaker_kv_max_layers: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSpec:
    """One block: its size in latents, its number of Euler steps, and the noise it starts from."""

    size: int
    steps: int
    truncation: float | None = None
    init_scale: float = INIT_SCALE


@dataclass(frozen=True, slots=True, kw_only=True)
class TailRules:
    """When a finished block counts as the end of speech, and where the flat tail begins."""

    early_stop_on_zero: bool = True
    zero_eps: float = 0.02
    zero_tail_frames: int = 16
    flat_window: int = 32
    flat_std: float = 0.02
    flat_mean: float = 0.02
    flat_max: float = 0.05
    #: Latents of the flat tail that are spoken: the last sound rings on into it.
    flat_keep: int = 0
    #: Where no flat tail is found at the end of speech, cut the latents that are (near) zero.
    cut_silent_tail: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockPlan:
    """Everything the sampler needs to know for one utterance, resolved from the preset and the request's options.

    ``sized`` plans are fitted to each text (``echo.sizing``) before they are used.
    """

    blocks: tuple[BlockSpec, ...]
    params: SamplerParams = field(default_factory=SamplerParams)
    tail: TailRules = field(default_factory=TailRules)
    sized: bool = False

    @property
    def latents(self) -> int:
        """Total latents the plan may generate."""
        return sum(block.size for block in self.blocks)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkRules:
    """How a long text is cut: by estimated seconds of speech, and by what one model window can hold."""

    enabled: bool = True
    target_s: float = 30.0
    min_s: float = 20.0
    max_s: float = 40.0
    chars_per_s: float = 14.0
    words_per_s: float = 2.7
    max_bytes: int = MAX_TEXT_BYTES - 1  # BOS takes one
    #: Hard limit on the characters of a chunk, tag included; a longer sentence is cut at its commas or words.
    max_chars: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRules:
    """What is done to the text before the model reads it (docs/text.md)."""

    normalize_exclamation: bool = True
    strip_markup: bool = True
    keep_uppercase: frozenset[str] = frozenset()
    #: Numbers, units, symbols and abbreviations become words (``EngineInfo.words_only``).
    spell_out: bool = False


@dataclass(frozen=True, slots=True)
class TextChunk:
    """A piece of normalised text that fits one model window; with silence around it where its author asked."""

    index: int
    text: str
    pause_after_ms: int = 0
    pause_before_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechOptions:
    """The engine options of one request, validated (``echo.options``); None keeps the preset's value.

    A tuple has one value per block. ``echo.options.EngineOptions`` documents each field and its range.
    """

    block_sizes: tuple[int, ...] | None = None
    num_steps: int | tuple[int, ...] | None = None
    truncation_factor: float | tuple[float, ...] | None = None
    init_scale: float | tuple[float, ...] | None = None
    sequence_length: int | None = None
    cfg_scale_text: float | None = None
    cfg_scale_speaker: float | None = None
    cfg_min_t: float | None = None
    cfg_max_t: float | None = None
    rescale_k: float | None = None
    rescale_sigma: float | None = None
    speaker_kv_scale: float | None = None
    speaker_kv_min_t: float | None = None
    speaker_kv_max_layers: int | None = None
    early_stop_on_zero: bool | None = None
    zero_eps: float | None = None
    zero_tail_frames: int | None = None
    chunking_enabled: bool | None = None
    chunk_target_seconds: float | None = None
    chunk_min_seconds: float | None = None
    chunk_max_seconds: float | None = None
    chunk_chars_per_second: float | None = None
    chunk_words_per_second: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechRequest:
    """A request to speak, the same whatever wire format it came in.

    ``streaming`` picks the block shape: the preset's small first block, or one large block.
    """

    text: str
    voice: VoiceRef = field(default_factory=VoiceRef)
    format: AudioFormat = field(default_factory=AudioFormat)
    options: SpeechOptions = field(default_factory=SpeechOptions)
    preset: str | None = None
    seed: int | None = None
    speed: float = 1.0
    streaming: bool = True
    emotion: Emotion | None = None
    #: Options of one engine alone, by their names there; see ``EngineInfo.options``.
    engine_options: Mapping[str, object] = field(default_factory=dict)
    #: Whose request it is, for fairness among clients: a name of a key or an address, only ever compared.
    client: str = ""
    #: Whether it is wanted when each word is spoken.
    times: bool = False
    #: Nobody listens: it takes no slot, gets what others leave of the device, and may be ended by ``Preempted``.
    background: bool = False


@runtime_checkable
class VoiceState(Protocol):
    """A reference clip as the engine has encoded it: opaque outside the engine but for its size."""

    @property
    def nbytes(self) -> int:
        """Host plus device memory held, in bytes."""
        ...


@dataclass(slots=True)
class Listener:
    """Playback buffer of a request, estimated; shared by its utterances, written by the engine.

    Playback is taken to start with the first frame and to run in real time. In the ``background`` nobody listens.
    """

    background: bool = False
    started: float | None = None  # engine clock, seconds
    produced_s: float = 0.0

    def underrun_at(self) -> float | None:
        """Return the engine clock's time at which the listener's buffer is empty; None before the first frame."""
        return None if self.started is None else self.started + self.produced_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    """One chunk of text for an engine to speak.

    ``voice`` None = no reference. ``seed`` is the request's; the engine derives noise from
    (seed + chunk, block, attempt), so neighbours, re-rolls and cancellations cannot shift it.
    """

    text: str
    plan: BlockPlan
    seed: int
    chunk: int = 0
    voice: VoiceState | None = None
    emotion: Emotion | None = None
    #: The encoded ``emotion.clip``.
    emotion_voice: VoiceState | None = None
    #: Values of ``EngineInfo.options``, checked.
    options: Mapping[str, object] = field(default_factory=dict)
    listener: Listener = field(default_factory=Listener)
    #: How long the text probably takes to speak; None = as long as the plan allows. Only for estimates of load.
    estimate_s: float | None = None
    #: Whether the frames shall bring the attention to the text, where the engine knows it.
    times: bool = False
    #: What the engine's ``prepare`` has computed from the other fields; opaque outside the engine.
    prepared: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """An utterance and the silences around it that the text asks for."""

    utterance: Utterance
    pause_before_ms: int = 0
    pause_after_ms: int = 0

    @property
    def pauses_s(self) -> float:
        """Both silences together, in seconds."""
        return (self.pause_before_ms + self.pause_after_ms) / 1000


@dataclass(frozen=True, slots=True)
class AudioFrame:
    """Audio of one finished block: float32 mono at the engine's rate."""

    samples: Audio
    sample_rate: int
    chunk: int = 0
    block: int = 0
    is_last: bool = False
    #: Waits for the block's attention to its text, whose tokens are a begin token and the text's bytes; None: unknown.
    attention: Callable[[], TextAttention] | None = None


@dataclass(slots=True)
class UtteranceStats:
    """What an engine reports when an utterance ends; times in seconds."""

    blocks: int = 0
    steps: int = 0
    rerolls: int = 0
    early_stopped: bool = False
    queue_s: float = 0.0
    first_frame_s: float = 0.0
    total_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Current queue and memory use of an engine; bytes are estimates of device memory."""

    #: Utterances being generated, and those that wait for capacity, but for work in the background.
    active: int = 0
    waiting: int = 0
    #: Reserved for the active ones, and the budget.
    nbytes: int = 0
    max_nbytes: float = math.inf
    #: Seconds that an utterance submitted now would wait.
    queue_wait_s: float = 0.0
    #: Seconds that the oldest piece of work on the device has taken so far.
    busy_s: float = 0.0
    #: Calls since the warm-up whose shape was neither compiled nor captured; 0 when all is as it should be.
    shape_misses: int = 0
    #: Of an engine in a process of its own: host memory of that, and how often one has failed and was started again.
    process_bytes: int | None = None
    restarts: int | None = None
    #: How often the device has had no memory for a piece of work since the start, also where smaller ones did.
    out_of_memory: int = 0
    #: Pieces of work that have succeeded since the start: steps, or pieces of audio where an engine has no steps.
    steps: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMemory:
    """Memory of a device in bytes: what this process uses, what its allocator keeps, and what nobody has taken."""

    allocated: int
    reserved: int
    free: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOption:
    """An option that one engine has: ``kind`` is number, integer, boolean or string; the bounds are allowed too."""

    name: str
    kind: str
    least: float | None = None
    most: float | None = None
    default: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What an engine is and can do, so that no edge ever asks for its type."""

    name: str  # the model id in /v1/models
    preset_family: str  # section of presets.toml
    sample_rate: int
    device: str
    backend: str
    license: str
    max_latents: int = MAX_LATENTS
    num_layers: int = MAX_LAYERS
    #: Utterances that the engine generates at the same time, unless ECHO_MAX_CONCURRENT says otherwise.
    concurrent: int = 1
    chunk_rules: ChunkRules = field(default_factory=ChunkRules)
    #: Emotion fields of a job that the engine takes, by their names there (``emo_vector``, ...); empty: it has none.
    emotions: frozenset[str] = frozenset()
    #: Whether it has learnt to read words alone, so that all else is spelled out for it.
    words_only: bool = False
    #: Whether it generates in blocks, and so takes block sizes, steps and guidance.
    blocks: bool = True
    #: Options of its own.
    options: tuple[EngineOption, ...] = ()
    #: Whether it speaks with the voice of a clip, and the names of the voices of its own.
    clones: bool = True
    voices: tuple[str, ...] = ()
    #: What it streams by: block, token, segment, sentence or utterance.
    streams: str = "block"
    #: Languages that it speaks; empty: it does not say.
    languages: tuple[str, ...] = ()
