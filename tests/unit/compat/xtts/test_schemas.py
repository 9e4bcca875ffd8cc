"""Bodies of the XTTS routes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compat.xtts.schemas import SpeakBody
from echo.errors import BadRequest


def _body(**fields: object) -> SpeakBody:
    return SpeakBody.parse({"text": "Hi", "speaker_wav": "anna", **fields})


@pytest.mark.parametrize(
    ("sent", "voice"),
    [
        ("anna", "anna"),
        ("anna.wav", "anna"),
        ("speakers/en/anna.wav", "anna"),
        ("C:\\Games\\voices\\anna.WAV", "anna"),
        ("../../etc/passwd", "passwd"),
        ("a/..", ".."),
        ("folder/", ""),
    ],
)
def test_a_voice_goes_by_its_base_name(sent: str, voice: str) -> None:
    assert _body(speaker_wav=sent).voice == voice


@pytest.mark.parametrize(
    ("sent", "suggested"),
    [
        (None, None),
        ("", None),
        ("line1.wav", "line1.wav"),
        ("C:\\out\\line 2", "line 2.wav"),
        ("../../../etc/cron.d/x", "x.wav"),
        ("..", None),
        ("...wav", None),
        ('a"; filename="b.exe', "a_ filename_b.exe.wav"),
        ("a\r\nSet-Cookie: x", "a_Set-Cookie_ x.wav"),
        ("\x00", None),
        ("x" * 500, "x" * 100 + ".wav"),
    ],
)
def test_a_save_path_is_only_a_suggested_file_name(sent: str | None, suggested: str | None) -> None:
    assert _body(save_path=sent).file_name == suggested


@settings(max_examples=200, derandomize=True, deadline=None)
@given(path=st.text(max_size=60))
def test_a_suggested_name_is_always_harmless_in_a_header(path: str) -> None:
    name = _body(save_path=path).file_name
    if name is not None:
        assert name.isascii()
        assert name.isprintable()
        assert not set(name) & set('"\\/;')
        assert not name.startswith(".")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"text": None}, "text"),
        ({"speaker_wav": ""}, "speaker_wav"),
        ({"speaker_wav": None}, "speaker_wav"),
        ({"speed": 0.1}, "speed"),
        ({"speed": "fast"}, "speed"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, object], field: str) -> None:
    with pytest.raises(BadRequest) as caught:
        _body(**change)
    assert caught.value.param == field


def test_fields_of_another_model_are_ignored() -> None:
    assert _body(temperature="hot", top_k=[], override={}, language=5) == _body()


def test_only_the_bare_word_is_a_keep_alive() -> None:
    assert _body(text=" ping ").is_ping
    assert not _body(text="Ping me later").is_ping


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=10), children, max_size=3),
    max_leaves=8,
)


@pytest.mark.slow
@settings(max_examples=200, derandomize=True, deadline=None)
@given(data=JSON | st.dictionaries(st.sampled_from(["text", "speaker_wav", "speed", "save_path"]), JSON))
def test_any_json_is_either_understood_or_refused(data: object) -> None:
    try:
        body = SpeakBody.parse(data)
    except BadRequest:
        return
    assert "/" not in body.voice
    assert body.speed is None or 0.25 <= body.speed <= 4
