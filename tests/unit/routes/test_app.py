from pathlib import Path

import pytest

from api_server import main
from echo import __version__


def test_the_version_is_told_without_starting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["--version"])
    assert done.value.code == 0
    assert capsys.readouterr().out.strip() == __version__


def test_help_names_the_flags_and_the_variables_behind_them(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    told = capsys.readouterr().out
    for word in ("--host", "--port", "--model", "--device", "--preset", "ECHO_MODEL_REPO", "ECHO_PERFORMANCE_PRESET"):
        assert word in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["--port", "70000"], "PORT"), (["--port", "http"], "PORT"), (["--device", "gpu"], "ECHO_DEVICE")],
)
def test_a_wrong_flag_stops_the_start_with_one_line(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as done:
        main(arguments)
    assert done.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert told in lines[0]


def test_a_keys_file_that_cannot_be_used_stops_the_start_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "keys.toml"
    path.write_text("[game]\nkey = 'secret'\nstreams = 0\n", encoding="utf-8")
    monkeypatch.setenv("ECHO_KEYS_FILE", str(path))
    with pytest.raises(SystemExit) as done:
        main([])
    assert done.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    for told in ("ECHO_KEYS_FILE", "keys.toml", "[game] streams"):
        assert told in line
    assert "secret" not in line
