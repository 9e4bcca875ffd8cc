"""Whatever the settings are: a server that speaks, or one clear line. Never a traceback."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from echo.engines.fake import FakeEngine
from echo.engines.load import pick_device, pick_dtype
from echo.errors import ConfigError
from echo.runtime import Runtime, Status
from echo.settings import HOME, Settings, describe, env_name, load_settings

NAMES = [env_name(field) for field in Settings.model_fields]
NASTY = [",", ", ,", "=", "a=", "=a", "a=b=c", "~nobody-of-this-name/x", "/", "/dev/null", "/proc/self/mem", ".", ".."]
NASTY += [
    "x" * 300,
    "/" + "x/" * 3000,
    "nan",
    "inf",
    "-inf",
    "-1",
    "0",
    "1",
    "1e-9",
    "1e400",
    "9" * 5000,
    "٣",
    "１",
    "²",
]
NASTY += ["true", "yes", "maybe", "None", "none", "cuda:", "cuda:²", "cuda:99", "auto:1", "cpu:1", "mps:7", "cpu:x"]
NASTY += [".", "*sighs*", "🙂", "\udcff", "\n", " ", "a\nb", "%s", "{}", "tiny", "no/such", "a/b/c", "../x", "http://x"]

values = st.one_of(st.sampled_from(NASTY), st.text(max_size=12).filter(lambda text: "\x00" not in text))


def one_line(message: str) -> bool:
    return bool(message) and "\n" not in message and len(message) < 1000


async def start(settings: Settings) -> str | None:
    """Open a runtime with an engine that makes sines; returns why that failed."""
    async with Runtime(settings, load_engine=lambda settings, gate: FakeEngine()) as runtime:
        await asyncio.wait(runtime._tasks[:1])
        assert runtime.status in (Status.READY, Status.FAILED)
        return runtime.failure


@pytest.mark.slow
@hypothesis_settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(given=st.dictionaries(st.sampled_from(NAMES), values, min_size=1, max_size=2))
def test_any_value_is_taken_or_refused_with_one_line(given: dict[str, str]) -> None:
    for name in ("ECHO_VAD_REROLL_ENABLED", "ECHO_DEBUG_LOGS"):
        given.pop(name, None)  # the one loads a detector each time, the other writes a file
    refused: ConfigError | None = None
    failure: str | None = None
    try:
        settings = load_settings(given)
        assert all("\n" not in line for line in describe(settings))
        pick_device(settings.device, "ECHO_DEVICE")
        pick_dtype(settings.model_dtype, pick_device("cpu", "ECHO_DEVICE"))
        failure = asyncio.run(start(settings))
    except ConfigError as error:
        refused = error
    assert refused is None or one_line(refused.message), refused
    assert failure is None or one_line(failure), failure
    assert failure != "The model could not be loaded."  # what is said of an error that nobody has thought of


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("ECHO_VOICES_DIR", ",", "at least one folder"),
        ("ECHO_VOICES_DIR", "~nobody-of-this-name/voices", "~nobody-of-this-name"),
        ("ECHO_API_KEYS", ",", "no key"),
        ("ECHO_MODEL_REPO", "x" * 300, "File name too long"),
        ("ECHO_FISH_REPO", "a\nb", "not printable"),
        ("ECHO_DEVICE", "cuda:", "must be auto"),
        ("ECHO_DEVICE", "auto:1", "must be auto"),
        ("ECHO_DEVICE", "cuda:²", "must be auto"),
        ("ECHO_CHUNK_CHARS_PER_SECOND", "nan", "finite"),
        ("ECHO_MAX_QUEUE_WAIT_S", "nan", "finite"),
        ("ECHO_CACHE_DIR", "~nobody-of-this-name", "~nobody-of-this-name"),
        ("ECHO_PRESETS_FILE", "x" * 300, "File name too long"),
    ],
)
def test_a_value_that_ended_in_a_traceback_is_refused_with_its_name(name: str, value: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        load_settings({name: value})
    assert caught.value.message.startswith(f"{name}=")


def test_a_presets_file_with_a_line_break_in_its_name_is_refused_with_one_line() -> None:
    with pytest.raises(ConfigError) as caught:
        Runtime(load_settings({"ECHO_PRESETS_FILE": "\n"}), load_engine=lambda settings, gate: FakeEngine())
    assert one_line(caught.value.message)


@pytest.mark.parametrize("text", [".", "*sighs*", "🙂", "[pause:1s]"])
def test_a_warm_up_text_with_nothing_to_speak_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="ECHO_WARMUP_TEXT"):
        Runtime(load_settings({"ECHO_WARMUP_TEXT": text}), load_engine=lambda settings, gate: FakeEngine())


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe[echo.default]",
        b"echo = 3",
        b"[echo]\ndefault = 3",
        b"[echo]\ndefault = [1]",
        b'[echo.default]\nblock_sizes = "abc"\nnum_steps = 1',
        b"[echo.default]\nblock_sizes = 32\nnum_steps = 1",
        b"[echo.default]\nblock_sizes = [1.5]\nnum_steps = 1",
        b'[echo.default]\nblock_sizes = [32]\nnum_steps = "a"',
        b'[echo.default]\nblock_sizes = [32]\nnum_steps = 1\nnonstream_num_steps = "a"',
        b'[echo.default]\nblock_sizes = [32]\nnum_steps = 1\nnonstream_block_sizes = "a"',
        b"[echo.default]\nblock_sizes = [32]\nnum_steps = 1\nnonstream_block_sizes = [[1]]",
        b"[echo.default]\nblock_sizes = [32]\nnum_steps = 1\nnonstream_block_sizes = []",
        b"[echo.default]\nblock_sizes = []\nnum_steps = []",
        b"[echo.default]\nblock_sizes = [32, 64]\nnum_steps = 1\ntruncation_factor = [1.0]",
        b"[echo.default]\nblock_sizes = [32]\nnum_steps = 1\nzero_tail_frames = 1.5",
        b"[echo.default]\nblock_sizes = [32]\nnum_steps = 1\nflat_window = -1",
        b'[echo.default]\nblock_sizes = [32]\nnum_steps = 1\nflat_std = "a"',
        b"[echo.default]\nblock_sizes = [32]\nnum_steps = 1\ncfg_min_t = 0.9\ncfg_max_t = 0.1",
        b"[echo.default]\nblock_sizes = [32]\nnum_steps = true",
        b"[echo.default]\nblock_sizes = [32]\nnum_steps = 1\n[echo]\nmine = 1979-05-27",
        b"x = " + b"[" * 5000,
    ],
)
def test_presets_are_checked_before_the_model_is_loaded(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "presets.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"presets\.toml") as caught:
        Runtime(load_settings({"ECHO_PRESETS_FILE": str(file)}), load_engine=lambda settings, gate: FakeEngine())
    assert one_line(caught.value.message)


@pytest.mark.parametrize("file", ["no-such-file.toml", "."])
def test_a_presets_file_that_cannot_be_read_is_named(file: str) -> None:
    with pytest.raises(ConfigError, match="presets file"):
        Runtime(load_settings({"ECHO_PRESETS_FILE": file}), load_engine=lambda settings, gate: FakeEngine())


def test_the_presets_of_the_checkout_are_good() -> None:
    Runtime(load_settings({"ECHO_PRESETS_FILE": str(HOME / "presets.toml")}))
