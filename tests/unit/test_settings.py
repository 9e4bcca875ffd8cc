import logging
from pathlib import Path

import pytest

from docs.generate import PAGES
from echo.errors import ConfigError
from echo.settings import HOME, Settings, describe, env_name, load_settings, unknown_variables, warn_of_unknown


def test_defaults_of_existing_servers_are_kept() -> None:
    settings = load_settings({})
    kept = {
        "ECHO_FISH_REPO": "jordand/fish-s1-dac-min",
        "ECHO_FISH_DTYPE": "float32",
        "ECHO_COMPILE_AE": 1,
        "ECHO_COMPILE_LORA_ONLY": 0,
        "ECHO_CACHE_VERSION": "v1",
        "ECHO_DEBUG_LOGS": 0,
        "ECHO_CHUNKING": 1,
        "ECHO_CHUNK_CHARS_PER_SECOND": 14.0,
        "ECHO_CHUNK_WORDS_PER_SECOND": 2.7,
        "ECHO_NORMALIZE_EXCLAMATION": 1,
        "ECHO_MAX_SPEAKER_LATENT_LENGTH": 6400,
        "ECHO_FOLDER_SUPPORT": 1,
        "ECHO_PERFORMANCE_PRESET": "default",
        "ECHO_VAD_REROLL_ENABLED": 0,
        "ECHO_VAD_SILENCE_THRESHOLD_MS": 1000,
        "ECHO_VAD_MAX_REROLLS": 3,
        "ECHO_INWORLD_COMPAT": 1,
        "ECHO_INWORLD_CLONE_ENABLED": 0,
        "ECHO_INWORLD_MAX_SAMPLE_SIZE": 104857600,
        "PORT": 8000,
    }
    by_name = {env_name(field): getattr(settings, field) for field in Settings.model_fields}
    assert {name: by_name[name] for name in kept} == kept


@pytest.mark.parametrize(
    ("written", "meant"),
    [("fp32", "float32"), ("float32", "float32"), ("bf16", "bfloat16"), ("fp16", "float16"), ("float16", "float16")],
)
def test_dtype_spellings(written: str, meant: str) -> None:
    assert load_settings({"ECHO_MODEL_DTYPE": written}).model_dtype == meant


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "abc"),
        ("PORT", "70000"),
        ("ECHO_DEVICE", "gpu"),
        ("ECHO_FISH_DTYPE", "int8"),
        ("ECHO_VAD_MAX_REROLLS", "-1"),
        ("ECHO_COMPILE", "maybe"),
        ("ECHO_CACHE_VERSION", "../x"),
        ("ECHO_VOICE_ALIASES", "alloy"),
        ("ECHO_PCM_SAMPLE_RATE", "12345"),
        ("ECHO_TRUSTED_PROXIES", "proxy.example"),
        ("ECHO_CLIENT_SHARE", "0"),
        ("ECHO_SEND_TIMEOUT_S", "nan"),
    ],
)
def test_a_wrong_value_names_variable_and_value(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings({name: value})
    assert caught.value.message.startswith(f"{name}={value!r}: ")
    assert "\n" not in caught.value.message


def test_the_pcm_rate_is_read_as_a_number() -> None:
    assert load_settings({"ECHO_PCM_SAMPLE_RATE": "16000"}).pcm_sample_rate == 16000


def test_an_empty_variable_counts_as_unset() -> None:
    assert load_settings({"PORT": "", "ECHO_MODEL_DTYPE": ""}) == load_settings({})


def test_flags_win_over_the_environment() -> None:
    assert load_settings({"PORT": "9000"}, port=9001).port == 9001
    assert load_settings({"PORT": "9000"}, port=None).port == 9000


def test_unknown_names_are_reported_with_the_nearest(caplog: pytest.LogCaptureFixture) -> None:
    assert unknown_variables({"ECHO_VAD_REROL_ENABLED": "1", "HOME": "/"}) == [
        ("ECHO_VAD_REROL_ENABLED", "ECHO_VAD_REROLL_ENABLED")
    ]
    with caplog.at_level(logging.WARNING):
        warn_of_unknown({"ECHO_VAD_REROL_ENABLED": "1"})
    assert "ECHO_VAD_REROLL_ENABLED" in caplog.text


def test_secrets_are_masked() -> None:
    settings = load_settings({"ECHO_API_KEYS": "topsecret, other"})
    assert [key.get_secret_value() for key in settings.api_keys] == ["topsecret", "other"]
    assert "topsecret" not in "\n".join(describe(settings))


def test_lists_are_written_with_commas() -> None:
    settings = load_settings(
        {"ECHO_VOICE_ALIASES": "alloy=anna, onyx=dan", "ECHO_CORS_ORIGINS": "https://a, https://b"}
    )
    assert settings.aliases == {"alloy": "anna", "onyx": "dan"}
    assert settings.cors_origins == ("https://a", "https://b")


def test_relative_folders_are_found_in_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings({}).voice_folders == (HOME / "audio_prompts",)
    (tmp_path / "audio_prompts").mkdir()
    assert load_settings({}).voice_folders == (tmp_path / "audio_prompts",)


@pytest.mark.parametrize("page", PAGES)
def test_the_generated_pages_are_current(page: str) -> None:
    assert (HOME / "docs" / page).read_text(encoding="utf-8") == PAGES[page]()
