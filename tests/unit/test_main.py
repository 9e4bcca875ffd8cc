"""Settings that end the start of the server."""

from __future__ import annotations

import pytest

from api_server import main


@pytest.mark.parametrize(
    ("arguments", "settings", "names"),
    [
        ([], {"ECHO_DEVICE": "gpu"}, ["ECHO_DEVICE", "'gpu'", "auto, cuda, cuda:<number>, mps or cpu"]),
        (["--preset", "x", "--device", "tpu"], {}, ["ECHO_DEVICE", "'tpu'"]),
        ([], {"ECHO_VOICES_DIR": ","}, ["ECHO_VOICES_DIR", "at least one folder"]),
        ([], {"ECHO_PRESETS_FILE": "no-such-presets.toml"}, ["no-such-presets.toml", "cannot be read"]),
        ([], {"ECHO_WARMUP_TEXT": "*sighs*"}, ["ECHO_WARMUP_TEXT", "nothing to speak"]),
        ([], {"ECHO_FISH_DTYPE": "int8"}, ["ECHO_FISH_DTYPE", "'int8'", "'float32', 'float16' or 'bfloat16'"]),
    ],
)
def test_a_wrong_setting_ends_it_with_one_line(
    arguments: list[str],
    settings: dict[str, str],
    names: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    for name in names:
        assert name in line
