"""Names of voices and ids of clones."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from echo.errors import BadRequest
from echo.voices.names import (
    CloneId,
    fold,
    is_partial,
    is_voice_name,
    reduce_name,
    reduce_workspace,
    split_suffix,
    squeeze,
)

ANY_TEXT = st.text(max_size=60) | st.text(alphabet="_-. aÄ/\\\x00\u0301é", max_size=20)
steady = settings(derandomize=True, deadline=None, max_examples=300)


@pytest.mark.parametrize("name", ["anna", "Anna Marie", "лидия", "a.b", "x" * 255, "default__Lydia", "-", "CON"])
def test_usual_names_are_names(name: str) -> None:
    assert is_voice_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *["", " ", ".", "..", ".hidden", "../x", "a/../b", "a..b", "a/b", "/etc/passwd", "a\\b", "C:\\x"],
        *["a\x00", "a\nb", "a\x1b", "a\x7f", "\u2028", "a\ud800", "x" * 256, "é" * 128],
    ],
)
def test_names_that_could_mean_a_path_or_break_a_log_are_none(name: str) -> None:
    assert not is_voice_name(name)


@pytest.mark.parametrize(
    ("file_name", "parts"),
    [
        ("anna.wav", ("anna", ".wav")),
        ("Anna.WAV", ("Anna", ".wav")),
        ("a.b.opus", ("a.b", ".opus")),
        ("anna", ("anna", "")),
        ("anna.txt", ("anna.txt", "")),
        (".wav", (".wav", "")),
        ("anna.wav.tmp", ("anna.wav.tmp", "")),
    ],
)
def test_only_audio_suffixes_are_split_off(file_name: str, parts: tuple[str, str]) -> None:
    assert split_suffix(file_name) == parts


def test_names_of_files_being_written_are_recognised() -> None:
    assert is_partial("anna.tmp")
    assert is_partial("anna.PART")
    assert not is_partial("tmp")
    assert not is_partial("party")


def test_folding_ignores_case_and_the_way_accents_are_written() -> None:
    decomposed = unicodedata.normalize("NFD", "Zoë")
    assert fold(decomposed) == fold("ZOË") == "zoë"
    assert squeeze("Female Nord") == "femalenord"


@pytest.mark.parametrize(
    ("text", "reduced"),
    [
        ("Lydia", "Lydia"),
        ("  Lydia the Housecarl ", "Lydia the Housecarl"),
        ("../../etc/passwd", "etcpasswd"),
        ("a\x00b\nc", "abc"),
        ("Лидия-2_b", "Лидия-2_b"),
        ("लिडिया", "लिडिया"),
        ("Ｌｙｄｉａ／../x", "Lydiax"),
        ("a\u2215b\u29f8c\uff0fd", "abcd"),
        ("a\u00a0b   c", "a b c"),
        ("C:\\CON.wav", "CCONwav"),
        ("😀", ""),
        ("a\u202eb", "ab"),
        ("½", "12"),
    ],
)
def test_names_are_reduced_to_letters_digits_and_three_signs(text: str, reduced: str) -> None:
    assert reduce_name(text) == reduced


def test_a_workspace_never_holds_the_separator() -> None:
    assert reduce_workspace("my__space__") == "my_space"
    assert reduce_workspace("_ _a_ ") == "a"
    assert reduce_workspace("____") == ""


def test_a_name_may_hold_the_separator_and_ids_still_have_one_reading() -> None:
    assert CloneId.parse("ws__a__b") == CloneId("ws", "a__b")
    assert CloneId.make("a_", "_b") == CloneId("a", "_b")
    assert str(CloneId("a", "_b")) == "a___b"
    assert CloneId.parse("a___b") == CloneId("a", "_b")


@pytest.mark.parametrize("text", ["", "anna", "__anna", "ws__", "ws_x", "ws__a.b", "ws__ a", "w/s__a", "ws__a/b", "__"])
def test_what_cloning_cannot_have_made_is_no_clone_id(text: str) -> None:
    assert CloneId.parse(text) is None


def test_only_the_clone_suffix_makes_a_file_a_clone() -> None:
    assert CloneId.from_file_name("ws__a.clone.wav") == CloneId("ws", "a")
    assert CloneId.from_file_name("ws__a.wav") is None
    assert CloneId.from_file_name("anna.clone.wav") is None
    assert CloneId("ws", "a").file_name == "ws__a.clone.wav"


@pytest.mark.parametrize(("workspace", "name", "field"), [("/", "a", "workspace"), ("ws", "..", "displayName")])
def test_an_empty_reduction_is_refused_naming_the_field(workspace: str, name: str, field: str) -> None:
    with pytest.raises(BadRequest) as caught:
        CloneId.make(workspace, name)
    assert caught.value.param == field


def test_the_longest_clone_fits_a_file_name_and_longer_ones_are_refused() -> None:
    longest = CloneId.make("w" * 64, "я" * 64)
    assert len(longest.file_name.encode()) <= 255
    with pytest.raises(BadRequest):
        CloneId.make("w" * 65, "a")
    with pytest.raises(BadRequest):
        CloneId.make("ws", "я" * 65)


@steady
@given(ANY_TEXT)
@example("e\x00\u0301")  # dropping a character brings a letter and its accent together
def test_reducing_twice_changes_nothing(text: str) -> None:
    assert reduce_name(reduce_name(text)) == reduce_name(text)
    assert reduce_workspace(reduce_workspace(text)) == reduce_workspace(text)


@pytest.mark.slow
@steady
@given(ANY_TEXT, ANY_TEXT)
def test_every_id_that_can_be_made_is_a_harmless_file_name_and_reads_back_as_itself(workspace: str, name: str) -> None:
    try:
        clone = CloneId.make(workspace, name)
    except BadRequest:
        return
    assert CloneId.parse(str(clone)) == clone
    assert CloneId.from_file_name(clone.file_name) == clone
    assert is_voice_name(str(clone))
    assert set(clone.file_name) & set('/\\:*?"<>|\x00') == set()
    assert len(clone.file_name.encode()) <= 255
