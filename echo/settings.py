"""Every environment variable the server reads, typed, frozen, documented; nothing else reads the environment."""

from __future__ import annotations

import difflib
import ipaddress
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from echo.errors import ConfigError
from echo.sources import BASE_DECODER, BASE_MODEL
from echo.types import SampleRate

log = logging.getLogger(__name__)

_PACKAGE = Path(__file__).resolve().parent

#: Where presets.toml and audio_prompts/ lie: the checkout's top, or in the package that was installed from a wheel.
HOME = _PACKAGE.parent if (_PACKAGE.parent / "presets.toml").is_file() else _PACKAGE / "assets"

#: What a child process may inherit: where its libraries lie, and what Windows needs to start one.
_CHILD_VARIABLES = frozenset(
    [
        "PATH",
        "LD_LIBRARY_PATH",
        "DYLD_LIBRARY_PATH",
        "DYLD_FALLBACK_LIBRARY_PATH",
        "SYSTEMROOT",
        "WINDIR",
        "TEMP",
        "TMP",
    ]
)

#: What the process of an engine may inherit besides, by name and by how a name begins: where weights and devices are.
#: It gets none of the server's own settings, and so no API key.
_ENGINE_VARIABLES = frozenset(["HOME", "LANG", "LC_ALL", "TMPDIR", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "USER"])
_ENGINE_PREFIXES = ("HF_", "XDG_")
#: Has huggingface_hub show how far its downloads are where there is no terminal.
_HUB_BARS = {"TQDM_POSITION": "-1"}

Dtype = Literal["float32", "float16", "bfloat16"]
_DTYPE_NAMES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


Model = TypeVar("Model", bound="EnvironmentModel")

_DEVICE = re.compile(r"auto|cpu|mps|cuda(?::[0-9]{1,3})?")

#: Longest excerpt of a wrong value, and of the message about it, in an error.
_LONGEST_SHOWN = 200

#: Written with commas in the environment.
CommaList = tuple[str, ...]


def env_field(name: str, default: Any, description: str, **limits: Any) -> Any:
    """Declare a setting by its environment variable; ``limits`` are pydantic's."""
    return Field(default, alias=name, description=description, **limits)


_env = env_field


class EnvironmentModel(BaseModel):
    """Settings whose fields are environment variables; ``read_environment`` fills one."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_by_name=True, validate_by_alias=True, allow_inf_nan=False
    )


class Settings(EnvironmentModel):
    """The server's settings. Names of existing Echo servers keep their name, default and meaning."""

    # -- where to listen
    host: str = _env("HOST", "127.0.0.1", "Address to listen on; 0.0.0.0 for every interface (the container's value).")
    port: int = _env("PORT", 8000, "Port to listen on; 0 picks a free one.", ge=0, le=65535)

    # -- model and devices
    engine: str = _env(
        "ECHO_ENGINE",
        "echo",
        "What speaks: `echo` (Echo-TTS), an engine of `ECHO_ENGINES_FILE`, or one that an installed package brings. "
        "The settings of model and devices are for `echo`.",
    )
    engines: CommaList = _env(
        "ECHO_ENGINES",
        (),
        "Several engines at once, for example `echo,kokoro`; a request's `model` picks one, the first speaks for all "
        "others. Unset: the one of `ECHO_ENGINE`.",
    )
    engines_file: Path = _env(
        "ECHO_ENGINES_FILE",
        Path("engines.toml"),
        "File with the engines that run in processes of their own (docs/engines.md); it need not exist.",
    )
    model_repo: str = _env(
        "ECHO_MODEL_REPO",
        "",
        f"Main model: a hub repository, a local folder in the same layout, or `tiny` (the embedded model). Unset: "
        f"`{BASE_MODEL}` where there is a CUDA device, else `tiny`.",
    )
    pca_repo: str = _env("ECHO_PCA_REPO", "", "Where `pca_state.safetensors` is. Unset: the model's repository.")
    fish_repo: str = _env(
        "ECHO_FISH_REPO",
        BASE_DECODER,
        "The S1-DAC decoder: a hub repository or a local folder. The embedded model brings its own.",
    )
    device: str = _env(
        "ECHO_DEVICE",
        "auto",
        "Device of the model: `auto` (cuda, then mps, then cpu), `cuda`, `cuda:1`, `mps`, `cpu`.",
    )
    fish_device: str = _env(
        "ECHO_FISH_DEVICE",
        "auto",
        "Device of the decoder; may differ from the model's. `auto`: the model's device.",
    )
    model_dtype: Dtype | None = _env(
        "ECHO_MODEL_DTYPE",
        None,
        "Number format of the model: `float32`, `float16` or `bfloat16`. Unset: bfloat16, but float32 on a CPU without "
        "instructions for it.",
    )
    fish_dtype: Dtype = _env("ECHO_FISH_DTYPE", "float32", "Number format of the decoder; `bf16` for small GPUs.")
    compile: bool = _env(
        "ECHO_COMPILE", True, "Compile the model with torch.compile at start-up, where a compiler and CUDA are there."
    )
    compile_ae: bool = _env(
        "ECHO_COMPILE_AE", True, "Compile the decoder at start-up, where a compiler and CUDA are there."
    )
    cuda_graphs: bool = _env(
        "ECHO_CUDA_GRAPHS",
        True,
        "Capture steps, texts, prefixes and decoding as CUDA graphs at start-up, and replay them.",
    )
    compile_lora_only: bool = _env(
        "ECHO_COMPILE_LORA_ONLY", False, "Accepted for old set-ups; has no effect without a LoRA."
    )
    cache_dir: Path = _env(
        "ECHO_CACHE_DIR",
        Path("~/.cache/echo-tts"),
        "Folder of compile artifacts (loaded at start, saved once after warm-up), of fetched voices, and of engines' "
        "environments.",
    )
    cache_version: str = _env(
        "ECHO_CACHE_VERSION",
        "v1",
        "Change it to start a fresh set of compile artifacts.",
        pattern=r"^[\w.-]+$",
    )
    cache_speaker_on_gpu: bool = _env(
        "ECHO_CACHE_SPEAKER_ON_GPU",
        True,
        "Keep encoded voices on the GPU, in at most a quarter of what the model leaves free there; the others are kept "
        "in host memory.",
    )
    cpu_threads: int = _env(
        "ECHO_CPU_THREADS", 0, "Cores that the model may use on a CPU; 0: all there are.", ge=0, le=1024
    )

    # -- voices
    voices_dir: CommaList = _env(
        "ECHO_VOICES_DIR",
        ("audio_prompts",),
        "Folder of reference voices; several with commas, the first also takes clones.",
    )
    default_voice: str = _env(
        "ECHO_DEFAULT_VOICE",
        "",
        "Voice of a request that names none. Unset: the first listed; `none`: no reference.",
    )
    voice_aliases: CommaList = _env("ECHO_VOICE_ALIASES", (), "Other names of voices: `alloy=anna,onyx=dan`.")
    folder_support: bool = _env("ECHO_FOLDER_SUPPORT", True, "A folder of clips in the voices folder is one voice.")
    max_speaker_latents: int = _env(
        "ECHO_MAX_SPEAKER_LATENT_LENGTH",
        6400,
        "Longest reference, in latents of 46.4 ms (6400 is about 5 minutes).",
        ge=4,
        le=6400,
    )
    max_voice_bytes: int = _env(
        "ECHO_MAX_VOICE_BYTES",
        25 * 2**20,
        "Largest clip that is sent with a request (base64, after decoding) or fetched by URL, in bytes.",
        ge=1024,
    )
    voice_base_url: str = _env(
        "ECHO_VOICE_BASE_URL",
        "",
        "Address of a folder of clips, in a bucket for example: a voice that is not here is fetched from below it, "
        "once. Whoever may write there adds voices. Unset: off.",
    )
    voice_fetch_timeout_s: float = _env(
        "ECHO_VOICE_FETCH_TIMEOUT_S",
        10.0,
        "Longest that fetching a voice may take, in seconds; then the request that names it fails.",
        gt=0,
        le=300,
    )
    voice_fetched_bytes: int = _env(
        "ECHO_VOICE_FETCHED_BYTES",
        2 * 2**30,
        "Disk space of all fetched clips, in bytes; the least recently used leave first.",
        ge=2**20,
    )
    voice_cache_bytes: int = _env(
        "ECHO_VOICE_CACHE_BYTES",
        512 * 2**20,
        "Memory for encoded voices, in bytes; the least recently used leave first.",
        ge=0,
    )

    voice_queue: int = _env(
        "ECHO_VOICE_QUEUE",
        32,
        "New voices that may wait to be read, half of them of one client; more are refused with 429.",
        ge=1,
        le=10_000,
    )
    voice_queue_bytes: int = _env(
        "ECHO_VOICE_QUEUE_BYTES",
        256 * 2**20,
        "Bytes of clips that may wait with them, half of them of one client.",
        ge=2**20,
    )
    decoders: int = _env("ECHO_DECODERS", 2, "Processes that decode clips, started when they are needed.", ge=1, le=64)

    # -- sampling
    performance_preset: str = _env(
        "ECHO_PERFORMANCE_PRESET",
        "default",
        "Preset of presets.toml: `default`, `low_mid`, `low`, `equal`, or your own. Unknown: a warning, `default`.",
    )
    presets_file: Path = _env("ECHO_PRESETS_FILE", Path("presets.toml"), "File with the presets.")
    num_steps_nonstream: int | None = _env(
        "ECHO_NUM_STEPS_NONSTREAM",
        None,
        "Denoising steps of non-stream requests (one block of 640 latents), 10 to 40 sensible. Unset: 20; the embedded "
        "model's preset has its own.",
        ge=1,
        le=100,
    )

    # -- text
    chunking: bool = _env("ECHO_CHUNKING", True, "Split long text into chunks of about 30 s (20 to 40 s).")
    chunk_chars_per_second: float = _env(
        "ECHO_CHUNK_CHARS_PER_SECOND", 14.0, "Characters spoken per second, for the duration estimate.", ge=1, le=1000
    )
    chunk_words_per_second: float = _env(
        "ECHO_CHUNK_WORDS_PER_SECOND", 2.7, "Words spoken per second, for the duration estimate.", ge=0.1, le=1000
    )
    secondary_streaming: bool = _env(
        "ECHO_SECONDARY_STREAMING",
        False,
        "Chunks after the first keep the streaming block shape instead of one large block.",
    )
    normalize_exclamation: bool = _env(
        "ECHO_NORMALIZE_EXCLAMATION", True, "A single `!` becomes `.`, a run of them one `!`."
    )
    strip_markup: bool = _env(
        "ECHO_STRIP_MARKUP", True, "Stage marks, markdown, URLs and emoji are not spoken (docs/text.md)."
    )
    uppercase_words_file: Path | None = _env(
        "ECHO_UPPERCASE_WORDS_FILE", None, "Words that keep their capitals, one per line, `#` comments."
    )
    max_input_chars: int = _env("ECHO_MAX_INPUT_CHARS", 4096, "Longest `input` of a request, in characters.", ge=1)
    max_chunks: int = _env(
        "ECHO_MAX_CHUNKS", 1000, "Most chunks that the text of a request may be split into.", ge=1, le=100_000
    )
    max_pauses_s: float = _env(
        "ECHO_MAX_PAUSES_S",
        300.0,
        "Most silence that the pauses of a text may add up to, in seconds, before `speed`; one is 10 s at most.",
        ge=0,
        le=86_400,
    )

    # -- silence re-roll
    vad_reroll_enabled: bool = _env(
        "ECHO_VAD_REROLL_ENABLED", False, "Generate a block again when it holds a long silence."
    )
    vad_silence_threshold_ms: int = _env(
        "ECHO_VAD_SILENCE_THRESHOLD_MS",
        1000,
        "Silence that counts as long, in milliseconds.",
        ge=100,
        le=30000,
    )
    vad_max_rerolls: int = _env(
        "ECHO_VAD_MAX_REROLLS",
        3,
        "Most attempts at one block beyond the first; the one with the shortest silence is kept.",
        ge=0,
        le=20,
    )

    # -- output
    pcm_sample_rate: SampleRate | None = _env(
        "ECHO_PCM_SAMPLE_RATE",
        None,
        "Rate of `pcm` where a request names none, in Hz. Unset: 24000 for OpenAI's model names, else 44100.",
    )
    wav_streaming: bool = _env(
        "ECHO_WAV_STREAMING",
        False,
        "Send `wav` progressively (sizes 0xFFFFFFFF) where a request does not say.",
    )

    max_audio_s: float = _env(
        "ECHO_MAX_AUDIO_S",
        3600.0,
        "Longest audio of a request, in seconds as heard: estimated before the start (400), and counted while it is "
        "made (the answer ends with an error).",
        gt=0,
        le=86_400,
    )
    max_whole_bytes: int = _env(
        "ECHO_MAX_WHOLE_BYTES",
        256 * 2**20,
        "Largest answer that is sent in one piece, in bytes of audio; larger ones have to be streamed.",
        ge=1024,
    )

    # -- long texts as jobs
    jobs_dir: Path | None = _env(
        "ECHO_JOBS_DIR",
        None,
        "Folder of the jobs that speak long texts (`POST /v1/audio/jobs`), and of what they have made. Unset: no jobs.",
    )
    jobs_s3: str = _env(
        "ECHO_JOBS_S3",
        "",
        "Bucket for the results of jobs, `s3://bucket/prefix`; keys and endpoint come from boto3's own variables "
        "(`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, ...). Unset: they stay in the folder.",
    )
    jobs_parallel: int = _env(
        "ECHO_JOBS_PARALLEL", 2, "Pieces of a job that are spoken at the same time.", ge=1, le=256
    )
    jobs_waiting: int = _env("ECHO_JOBS_WAITING", 100, "Jobs that may wait or be paused.", ge=1, le=100_000)
    jobs_max_chars: int = _env(
        "ECHO_JOBS_MAX_CHARS", 5_000_000, "Longest text of a job, in characters.", ge=1, le=100_000_000
    )
    jobs_keep_days: float = _env(
        "ECHO_JOBS_KEEP_DAYS", 30.0, "Days after which a job that has ended is removed with its results.", gt=0
    )

    # -- other wire formats
    inworld_compat: bool = _env("ECHO_INWORLD_COMPAT", True, "Serve Inworld's routes.")
    inworld_clone_enabled: bool = _env(
        "ECHO_INWORLD_CLONE_ENABLED", False, "Allow cloning and deleting voices over HTTP."
    )
    inworld_max_sample_size: int = _env(
        "ECHO_INWORLD_MAX_SAMPLE_SIZE",
        104_857_600,
        "Largest sum of a clone's samples after decoding, in bytes.",
        ge=1024,
    )
    max_clones: int = _env("ECHO_MAX_CLONES", 10_000, "Most cloned voices; 0: any number.", ge=0)
    max_clones_bytes: int = _env(
        "ECHO_MAX_CLONES_BYTES", 10 * 2**30, "Disk space of all cloned voices together, in bytes; 0: any.", ge=0
    )
    inworld_max_text_chars: int = _env(
        "ECHO_INWORLD_MAX_TEXT_CHARS", 2000, "Longest text of an Inworld request, in characters.", ge=1
    )
    omni_compat: bool = _env(
        "ECHO_OMNI_COMPAT",
        True,
        "Serve the routes of vLLM-Omni and SGLang-Omni: text over a socket while it is written, batches, and voices by "
        "upload.",
    )
    kokoro_compat: bool = _env(
        "ECHO_KOKORO_COMPAT", True, "Serve Kokoro-FastAPI's route for speech with the times of its words."
    )
    deepgram_compat: bool = _env("ECHO_DEEPGRAM_COMPAT", True, "Serve Deepgram's socket for speech.")
    xtts_compat: bool = _env("ECHO_XTTS_COMPAT", True, "Serve the XTTS routes (Mantella, SillyTavern, SkyrimNet).")
    elevenlabs_compat: bool = _env("ECHO_ELEVENLABS_COMPAT", True, "Serve ElevenLabs' routes.")

    chatterbox_compat: bool = _env(
        "ECHO_CHATTERBOX_COMPAT", True, "Serve the routes and sockets of the Chatterbox streaming server (telephony)."
    )

    twilio_compat: bool = _env(
        "ECHO_TWILIO_COMPAT", True, "Serve Twilio's Media Streams, and the routes that speak in a call."
    )

    # -- operation
    playground: bool = _env("ECHO_PLAYGROUND", True, "Answer browsers at `/` with a page that speaks.")
    api_keys: tuple[SecretStr, ...] = _env(
        "ECHO_API_KEYS",
        (),
        "Keys of which a request must carry one; several with commas. They may do everything but `/admin`. Without "
        "any, here or in `ECHO_KEYS_FILE`, no key is asked for.",
    )
    keys_file: Path | None = _env(
        "ECHO_KEYS_FILE",
        None,
        "File with more keys: their names, scopes and limits (docs/operations.md#keys); read again when it changes.",
    )
    cors_origins: CommaList = _env("ECHO_CORS_ORIGINS", (), "Origins that browsers may call from; `*` for all.")
    trusted_proxies: CommaList = _env(
        "ECHO_TRUSTED_PROXIES",
        (),
        "Addresses or networks of proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed.",
    )
    max_failed_keys: int = _env(
        "ECHO_MAX_FAILED_KEYS",
        10,
        "Wrong API keys that one address may try in a minute; then it is answered 429. 0: any number.",
        ge=0,
    )
    client_share: float = _env(
        "ECHO_CLIENT_SHARE",
        0.5,
        "Share of the slots, connections and buffers that one client (API key, else address) may take; 1: all.",
        gt=0,
        le=1,
    )
    max_connections: int = _env(
        "ECHO_MAX_CONNECTIONS",
        0,
        "Connections that may be open. 0: 1000, or as many as the process's limit of descriptors leaves room for.",
        ge=0,
        le=1_000_000,
    )
    sockets_per_client: int = _env(
        "ECHO_SOCKETS_PER_CLIENT",
        64,
        "WebSockets that one client (API key, else address) may have open; more are refused with 429. 0: any number.",
        ge=0,
        le=1_000_000,
    )
    receive_timeout_s: float = _env(
        "ECHO_RECEIVE_TIMEOUT_S",
        20.0,
        "Longest wait for a client's request, for the whole of its head, and for the next bytes of its body, in "
        "seconds. A body must also come at 32 KiB/s or faster on average.",
        gt=0,
        le=3600,
    )
    keep_alive_s: float = _env(
        "ECHO_KEEP_ALIVE_S",
        75.0,
        "A connection is kept for as long after an answer, for the next request, in seconds. Longer than clients and "
        "balancers keep theirs (nginx and most: 60 s), or a request may meet a connection that is just being closed.",
        ge=1,
        le=3600,
    )
    send_timeout_s: float = _env(
        "ECHO_SEND_TIMEOUT_S",
        60.0,
        "A client that takes not one byte of its answer for as long is cut off, in seconds. Receivers take in steps: a "
        "sixteenth of a receive buffer of 6 MB is 48 s of mu-law at the pace of a player.",
        gt=0,
        le=86400,
    )
    max_unsent_bytes: int = _env(
        "ECHO_MAX_UNSENT_BYTES",
        256 * 2**20,
        "Bytes of finished answers that clients have not taken; beyond it speech is refused with 429.",
        ge=2**20,
    )
    max_incoming_bytes: int = _env(
        "ECHO_MAX_INCOMING_BYTES",
        256 * 2**20,
        "Bytes of request bodies, and of large messages on sockets, that are held at the same time; beyond it more are "
        "refused with 429, or the socket is closed.",
        ge=2**20,
    )
    max_concurrent: int = _env(
        "ECHO_MAX_CONCURRENT",
        0,
        "Utterances denoised at the same time; 1 is lock-step. 0: 128 on CUDA, else 8.",
        ge=0,
        le=1024,
    )
    max_queue: int = _env(
        "ECHO_MAX_QUEUE",
        32,
        "Requests that may wait beyond that; more are refused with 429.",
        ge=0,
        le=100_000,
    )
    max_queue_wait_s: float = _env(
        "ECHO_MAX_QUEUE_WAIT_S",
        30.0,
        "Longest estimated wait of a request until it is worked on, in seconds; beyond it is refused with 429. 0: any.",
        ge=0,
        le=3600,
    )
    kv_budget_mb: int = _env(
        "ECHO_KV_BUDGET_MB",
        0,
        "Device memory for utterances in work (keys and values, decoder memory), in MB of 2^20 bytes; others wait. "
        "0: on CUDA 60 % of what is free once the model is loaded, else 4096.",
        ge=0,
    )
    max_body_bytes: int = _env(
        "ECHO_MAX_BODY_BYTES",
        40 * 2**20,
        "Largest request body, in bytes (clone uploads have their own limit).",
        ge=1024,
    )
    warmup_voice: str = _env("ECHO_WARMUP_VOICE", "", "Voice of the warm-up. Unset: the default voice.")
    warmup_text: str = _env("ECHO_WARMUP_TEXT", "This is a short sentence to warm up.", "Text of the warm-up.")
    drain_s: float = _env(
        "ECHO_DRAIN_S",
        5.0,
        "Seconds after SIGTERM in which `/ready` is 503 and everything is still served, so that balancers notice. "
        "Ctrl-C does not wait for them.",
        ge=0,
        le=3600,
    )
    shutdown_grace_s: float = _env(
        "ECHO_SHUTDOWN_GRACE_S",
        10.0,
        "Seconds that open streams get after that; 10 s later the process has ended.",
        ge=0,
        le=3600,
    )
    device_timeout_s: float = _env(
        "ECHO_DEVICE_TIMEOUT_S",
        0.0,
        "Longest that the device may take for one piece of work, in seconds; then it counts as stuck and the server "
        "stops serving. Not while the server starts. 0: 60 on CUDA, else 600.",
        ge=0,
        le=86_400,
    )
    device_exit: bool = _env(
        "ECHO_DEVICE_EXIT",
        True,
        "End the process, with status 70, when the device has died or is stuck, so that a service manager starts it "
        "again. 0: only `/health`, `/ready` and the answers tell.",
    )
    log_format: Literal["text", "json"] = _env("ECHO_LOG_FORMAT", "text", "Log lines for people or for machines.")
    debug_logs: bool = _env(
        "ECHO_DEBUG_LOGS",
        False,
        "Per-request timings in the log; the last generation is saved to `api_generation.wav`.",
    )

    @field_validator("model_dtype", "fish_dtype", mode="before")
    @classmethod
    def _dtype_name(cls, value: object) -> object:
        return _DTYPE_NAMES.get(value, value) if isinstance(value, str) else value

    @field_validator("pcm_sample_rate", mode="before")
    @classmethod
    def _rate(cls, value: object) -> object:
        return int(value) if isinstance(value, str) and value.isdecimal() else value

    @field_validator(
        "engines", "voices_dir", "voice_aliases", "cors_origins", "trusted_proxies", "api_keys", mode="before"
    )
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("voice_aliases")
    @classmethod
    def _pairs(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [pair for pair in value if pair.count("=") != 1]:
            raise ValueError(f"{wrong[0]!r} is not of the form name=voice")
        return value

    @field_validator("voices_dir")
    @classmethod
    def _folders(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("must name at least one folder")
        for folder in value:
            _usable(Path(folder))
        return value

    @field_validator("cache_dir", "presets_file", "engines_file", "uppercase_words_file", "keys_file", "jobs_dir")
    @classmethod
    def _path(cls, value: Path | None) -> Path | None:
        return _usable(value) if value is not None else None

    @field_validator("model_repo", "pca_repo", "fish_repo")
    @classmethod
    def _source(cls, value: str) -> str:
        if not value.isprintable():
            raise ValueError("holds a character that is not printable")
        _usable(Path(value))  # it may be a folder
        return value

    @field_validator("api_keys")
    @classmethod
    def _keys(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if not value:  # it was set, or this would not be called: nobody means to open the server like that
            raise ValueError("holds no key; leave it unset to ask for none")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for part in value:
            try:
                ipaddress.ip_network("::/0" if part == "*" else part, strict=False)
            except ValueError:
                raise ValueError(f"{part!r} is neither an address nor a network such as 10.0.0.0/8") from None
        return value

    @field_validator("device", "fish_device")
    @classmethod
    def _device_name(cls, value: str) -> str:
        if not _DEVICE.fullmatch(value):
            raise ValueError("must be auto, cuda, cuda:<number>, mps or cpu")
        return value

    @property
    def voice_folders(self) -> tuple[Path, ...]:
        """The voices folders; relative ones start at the working directory, else where the server's own files are."""
        return tuple(_existing(Path(folder)) for folder in self.voices_dir)

    @property
    def engines_dir(self) -> Path:
        """Where ``python -m echo engines install`` puts environments of engines."""
        return self.cache_dir.expanduser() / "engines"

    @property
    def engine_names(self) -> tuple[str, ...]:
        """The engines to load, the default one first."""
        return self.engines or (self.engine,)

    @property
    def presets_path(self) -> Path:
        """The presets file, found like the voices folders."""
        return _existing(self.presets_file)

    @property
    def engines_path(self) -> Path:
        """The file of foreign engines, found like the voices folders."""
        return _existing(self.engines_file)

    @property
    def aliases(self) -> dict[str, str]:
        """Voice aliases as a mapping."""
        return dict(pair.split("=", 1) for pair in self.voice_aliases)


def load_settings(environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """Read the server's settings from the environment; see ``read_environment``."""
    return read_environment(Settings, environ, **overrides)


def read_environment(model: type[Model], environ: Mapping[str, str] | None = None, **overrides: Any) -> Model:
    """Read settings from the environment.

    ``overrides`` are field values from the command line and win. Raises ConfigError naming variable, value and what is
    allowed.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    for field in model.model_fields:
        name = env_name(field, model)
        if field in overrides and overrides[field] is not None:
            values[name] = overrides[field]
        elif environ.get(name, "") != "":
            values[name] = environ[name]
    try:
        return model(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        shown = "***" if "KEY" in name and not name.endswith("_FILE") else _short(repr(values.get(name)))
        message = _short(first["msg"].removeprefix("Value error, "))
        raise ConfigError(f"{name}={shown}: {message}.") from None


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def env_name(field: str, model: type[EnvironmentModel] = Settings) -> str:
    """Return the environment variable of a field."""
    return str(model.model_fields[field].alias)


def unknown_variables(
    environ: Iterable[str], models: Sequence[type[EnvironmentModel]] = (Settings,)
) -> list[tuple[str, str | None]]:
    """Return every ``ECHO_*`` name that no setting of the models has, with the nearest known one."""
    known = [env_name(field, model) for model in models for field in model.model_fields]
    unknown = sorted(name for name in environ if name.startswith("ECHO_") and name not in known)
    return [(name, next(iter(difflib.get_close_matches(name, known, n=1)), None)) for name in unknown]


def warn_of_unknown(
    environ: Iterable[str] | None = None, models: Sequence[type[EnvironmentModel]] = (Settings,)
) -> None:
    """Log a warning for every unknown ``ECHO_*`` name, with the nearest known one."""
    for name, nearest in unknown_variables(os.environ if environ is None else environ, models):
        hint = f"; did you mean {nearest}?" if nearest else ""
        log.warning("unknown setting %s is ignored%s", name, hint)


def describe(settings: EnvironmentModel) -> list[str]:
    """Return the effective settings as ``NAME=value`` lines, secrets masked."""
    model = type(settings)
    lines = []
    for field in model.model_fields:
        value = getattr(settings, field)
        if isinstance(value, tuple):
            value = ",".join(str(part) for part in value)
        elif isinstance(value, bool):
            value = int(value)
        shown = "" if value is None else str(value)
        lines.append(f"{env_name(field, model)}={' '.join(shown.splitlines())}")
    return lines


def _usable(path: Path) -> Path:
    """Return the path if it can be looked up, whether or not anything is there; raises ValueError."""
    try:
        path.expanduser().exists()
    except RuntimeError:
        raise ValueError(f"there is no such home directory as that of {path}") from None
    except OSError as error:
        raise ValueError(f"the path cannot be used: {error.strerror}") from None
    return path


def child_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return what a process that decodes strangers' files needs of the environment: nothing that is secret."""
    environ = os.environ if environ is None else environ
    return {name: value for name, value in environ.items() if name.upper() in _CHILD_VARIABLES}


def traces_exporter(environ: Mapping[str, str] | None = None) -> str | None:
    """Return what OpenTelemetry's own variables want traces exported by: ``otlp``, ``console``, or None for no traces.

    https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/, but that nothing is exported
    unless an exporter or an endpoint is named. Raises ConfigError.
    """
    environ = os.environ if environ is None else environ

    def value(*names: str) -> str:
        return next((environ[name].strip() for name in names if environ.get(name, "").strip()), "")

    if value("OTEL_SDK_DISABLED").lower() == "true":
        return None
    named = value("OTEL_TRACES_EXPORTER")
    endpoint = value("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    exporter = named or ("otlp" if endpoint else "none")
    if exporter not in ("otlp", "console", "none"):
        raise ConfigError(f"OTEL_TRACES_EXPORTER={_short(repr(named))}: must be otlp, console or none.")
    protocol = value("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    if exporter == "otlp" and protocol not in ("", "http/protobuf"):
        raise ConfigError(f"OTEL_EXPORTER_OTLP_PROTOCOL={_short(repr(protocol))}: must be http/protobuf.")
    return None if exporter == "none" else exporter


def engine_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return what the process of a foreign engine needs of the environment: no setting of this server."""
    environ = os.environ if environ is None else environ
    names = _CHILD_VARIABLES | _ENGINE_VARIABLES
    found = {name: value for name, value in environ.items() if name in names or name.startswith(_ENGINE_PREFIXES)}
    return _HUB_BARS | found


def _existing(path: Path) -> Path:
    path = path.expanduser()
    if path.is_absolute() or path.exists():
        return path.absolute()
    return (HOME / path).absolute()


def installer_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return what pip and npm get: everything but this server's settings and what this interpreter was started with."""
    environ = os.environ if environ is None else environ
    return {
        name: value for name, value in environ.items() if not name.startswith(("ECHO_", "PYTHONPATH", "PYTHONHOME"))
    }
