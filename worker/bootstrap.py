"""What has to be there before the first job: the settings, the folders, and a page that says what was found."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import constants, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.file_download import repo_folder_name

from echo import __version__
from echo.errors import ConfigError
from echo.settings import Settings, load_settings
from echo.sources import BASE_DECODER, BASE_MODEL
from worker.settings import WorkerSettings
from worker.speech import CHUNKS_AT_A_TIME
from worker.voices import JobVoices


def server_settings(worker: WorkerSettings) -> Settings:
    """Return the server's settings as the worker needs them; raises ConfigError.

    The platform has a queue of its own, and ends a job that takes too long: what the worker has taken is never refused.
    """
    settings = load_settings(
        voices_dir=(worker.voices_dir,) if worker.voices_dir else None,
        max_queue_wait_s=0.0,
    )
    return settings.model_copy(
        update={
            "max_queue": max(settings.max_queue, CHUNKS_AT_A_TIME * worker.jobs),
            "voice_queue": max(settings.voice_queue, 2 * CHUNKS_AT_A_TIME * worker.jobs),
        }
    )


def make_folders(settings: Settings, worker: WorkerSettings) -> None:
    """Make the folders of voices and of files in work; raises ConfigError naming the variable."""
    voices = "AUDIO_VOICES_DIR" if worker.voices_dir else "ECHO_VOICES_DIR"
    for folder in settings.voice_folders:
        _make(folder, voices)
    _make(worker.output_dir, "OUTPUT_AUDIO_DIR")
    if not os.access(worker.output_dir, os.W_OK | os.X_OK):
        raise ConfigError(f"OUTPUT_AUDIO_DIR={worker.output_dir}: the folder cannot be written to.")


def page(settings: Settings, worker: WorkerSettings, voices: JobVoices, *, mode: str, s3: bool | None) -> list[str]:
    """Return the page; ``s3``: the storage answers, None where there is none."""
    rows = [
        ("version", __version__),
        ("mode", mode),
        ("handler", "generator (STREAM_HANDLER=1)" if worker.stream_handler else "plain"),
        ("jobs at a time", str(worker.jobs)),
        ("voices", f"{voices.count()} clips in {', '.join(str(folder) for folder in voices.folders)}"),
        ("files in work", str(worker.output_dir)),
        ("storage", _storage(worker, s3)),
        ("engine", settings.engine_names[0]),
        *_models(settings),
        ("hub cache", constants.HF_HUB_CACHE + ("" if Path(constants.HF_HUB_CACHE).is_dir() else " (not there yet)")),
        ("hub", ("offline" if constants.HF_HUB_OFFLINE else "online") + _token()),
        ("model is loaded", "before the first job (ECHO_WARM=1)" if worker.warm else "with the first job"),
    ]
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {value}" for name, value in rows]


def _make(folder: Path, variable: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{variable}={folder}: the folder cannot be made ({error.strerror}).") from None


def _storage(worker: WorkerSettings, s3: bool | None) -> str:
    if s3 is None:
        return "none, answers hold the audio" if worker.inline_audio else "none"
    where = worker.s3_endpoint_url or "Amazon S3"
    state = "it answers" if s3 else "IT DOES NOT ANSWER as it should"
    life = f"URLs live {worker.s3_url_expires_s} s"
    return f"bucket {worker.s3_bucket_name} at {where}, region {worker.s3_region}, {life}; {state}"


def _models(settings: Settings) -> Iterator[tuple[str, str]]:
    if settings.engine_names[0] != "echo":
        return
    source = settings.model_repo
    yield "model", _found(source) if source else f"{_found(BASE_MODEL)} with a CUDA device, else the embedded one"
    if source != "tiny":
        yield "decoder", _found(settings.fish_repo or BASE_DECODER)


def _found(source: str) -> str:
    if source == "tiny" or Path(source).expanduser().is_dir():
        return source
    try:
        folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=source, repo_type="model")
    except HFValidationError:
        return f"{source} (no folder that is there, and no name of the hub's)"
    return f"{source} ({'in the cache' if (folder / 'snapshots').is_dir() else 'not in the cache: to be downloaded'})"


def _token() -> str:
    return ", with a token" if get_token() else ", without a token"
