"""The worker's settings and the page of what it found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from echo.errors import ConfigError
from echo.settings import Settings, describe, read_environment, unknown_variables
from worker.bootstrap import make_folders, page, server_settings
from worker.settings import WorkerSettings
from worker.storage import Storage
from worker.voices import JobVoices

S3 = {"S3_ACCESS_KEY_ID": "key", "S3_SECRET_ACCESS_KEY": "s3cret", "S3_BUCKET_NAME": "bucket"}


def read(**environ: str) -> WorkerSettings:
    return read_environment(WorkerSettings, environ)


def fault(**environ: str) -> str | None:
    return read(**environ).fault


def test_all_that_uploads_need_is_needed() -> None:
    assert fault(**S3) is None
    for name in S3:
        wrong = fault(**{**S3, name: ""}, ECHO_WORKER_INLINE_AUDIO="1")
        assert wrong == f"{name}: not set; finished files cannot be uploaded. Set it."
    assert str(fault()).startswith("S3_ACCESS_KEY_ID, S3_SECRET_ACCESS_KEY, S3_BUCKET_NAME: not set;")
    assert fault(ECHO_WORKER_INLINE_AUDIO="1") is None
    assert fault(ECHO_WORKER_INLINE_AUDIO="1", S3_ENDPOINT_URL="https://s3.example") is not None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("S3_URL_EXPIRES_S", "604801"),
        ("S3_URL_EXPIRES_S", "0"),
        ("S3_ENDPOINT_URL", "s3.example"),
        ("ECHO_WORKER_JOBS", "0"),
        ("ECHO_WARM", "perhaps"),
    ],
)
def test_a_wrong_value_is_one_line_with_its_variable(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}='{value}': ") as wrong:
        read(**{name: value})
    assert "\n" not in wrong.value.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("S3_ENDPOINT_URL", "https://"),
        ("S3_ENDPOINT_URL", "https://bad host"),
        ("S3_REGION", "us east"),
        ("S3_BUCKET_NAME", "my bucket!"),
    ],
)
def test_a_storage_that_can_never_be_reached_is_one_line_with_its_variable(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}='{value}': must be .*\\.$") as wrong:
        Storage(read(**{**S3, name: value}))
    assert "\n" not in wrong.value.message


def test_spaces_around_a_pasted_key_are_no_part_of_it() -> None:
    pasted = read(**{name: f" {value}\n" for name, value in S3.items()})
    assert pasted == read(**S3)


def test_secrets_are_never_shown() -> None:
    assert "s3cret" not in "\n".join(describe(read(**S3)))
    with pytest.raises(ConfigError) as wrong:
        read_environment(WorkerSettings, {}, s3_secret_access_key=["s3cret"])
    assert "s3cret" not in wrong.value.message


def test_the_workers_names_are_known_to_the_worker_only() -> None:
    assert unknown_variables(["ECHO_WARM", "ECHO_WARMM"], [Settings, WorkerSettings]) == [("ECHO_WARMM", "ECHO_WARM")]
    assert [name for name, _ in unknown_variables(["ECHO_WARM"])] == ["ECHO_WARM"]


def test_what_the_worker_has_taken_is_never_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ECHO_MAX_QUEUE_WAIT_S", "1")
    monkeypatch.setenv("ECHO_MAX_QUEUE", "0")
    settings = server_settings(WorkerSettings(jobs=100, voices_dir=str(tmp_path / "a,b")))
    assert (settings.max_queue_wait_s, settings.max_queue, settings.voice_queue) == (0, 400, 800)
    assert settings.voice_folders == (tmp_path / "a,b",)


def test_folders_are_made_or_the_variable_is_named(tmp_path: Path) -> None:
    worker = WorkerSettings(voices_dir=str(tmp_path / "v" / "w"), output_dir=tmp_path / "o" / "p")
    make_folders(server_settings(worker), worker)
    assert (tmp_path / "v" / "w").is_dir()
    assert (tmp_path / "o" / "p").is_dir()
    (tmp_path / "file").write_text("")
    for wrong, name in (
        (WorkerSettings(voices_dir=str(tmp_path / "file" / "v"), output_dir=tmp_path), "AUDIO_VOICES_DIR"),
        (WorkerSettings(output_dir=tmp_path / "file" / "o"), "OUTPUT_AUDIO_DIR"),
    ):
        with pytest.raises(ConfigError, match=f"^{name}=.*the folder cannot be made"):
            make_folders(server_settings(wrong), wrong)


@pytest.mark.parametrize(
    ("environ", "s3", "line"),
    [
        ({}, None, "storage          none"),
        ({"ECHO_WORKER_INLINE_AUDIO": "1"}, None, "storage          none, answers hold the audio"),
        (S3, True, "bucket bucket at Amazon S3, region us-east-1, URLs live 3600 s; it answers"),
        (S3, False, "IT DOES NOT ANSWER"),
        ({"STREAM_HANDLER": "1"}, None, "handler          generator"),
    ],
)
def test_the_page_says_what_was_found(tmp_path: Path, environ: dict[str, Any], s3: bool | None, line: str) -> None:
    lines = page(Settings(model_repo="tiny"), read(**environ), JobVoices([tmp_path]), mode="test", s3=s3)
    assert any(line in each for each in lines), lines
    assert "model            tiny" in lines
    assert not any("s3cret" in each for each in lines)


def test_the_page_names_the_first_engine(tmp_path: Path) -> None:
    settings = Settings(engines=("kokoro", "echo"))
    lines = page(settings, WorkerSettings(), JobVoices([tmp_path]), mode="test", s3=None)
    assert "engine           kokoro" in lines
    assert not any(line.startswith("model  ") for line in lines)


def test_the_page_survives_a_model_that_is_nowhere(tmp_path: Path) -> None:
    settings = Settings(model_repo=str(tmp_path / "no" / "model"))
    lines = page(settings, WorkerSettings(), JobVoices([tmp_path]), mode="test", s3=None)
    assert any("no folder that is there" in line for line in lines)
