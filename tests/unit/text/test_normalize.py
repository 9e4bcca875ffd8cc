"""Spelling: which words in capitals are kept, and how many combining marks a letter keeps."""

from __future__ import annotations

import unicodedata

import pytest

from echo.text.normalize import parse_uppercase_words, preprocess
from echo.types import TextRules
from tests.reference.streaming_text import preprocess_for_stream


@pytest.mark.parametrize(
    ("words", "text", "spoken"),
    [
        ([], "OK THEN. the BBC'S reply", "Ok then. The bbc'S reply"),
        (["BBC"], "OK THEN. the BBC'S reply", "Ok then. The BBC'S reply"),
        (["bbc's"], "OK THEN. the BBC'S reply", "Ok then. The BBC'S reply"),
        (["BBC's"], "the BBC's reply to BBC", "The BBC's reply to bbc"),
        (["IBM"], "IBM'S and IBM's and IBMS", "IBM'S and IBM's and ibms"),
        (["NASA"], "so NASA's, NASA'S", "So NASA's, NASA'S"),
        (["NASA"], "nasa's NASAL CAVITY", "Nasa's nasal cavity"),
        (["U.S."], "in U.S. law the U.S.'s", "In U.S. Law the U.S.'s"),
        ([], "in the U.S. and the U.S.A.", "In the U.S. And the U.S.A."),
        (["ok"], "ok OK", "Ok OK"),
    ],
)
def test_a_word_of_the_keep_list_is_kept_with_its_possessive(words: list[str], text: str, spoken: str) -> None:
    kept = parse_uppercase_words(words)
    assert preprocess_for_stream(text, keep_uppercase=kept) == f"[S1] {spoken}"
    assert preprocess(text, TextRules(keep_uppercase=kept)) == spoken


def test_letters_keep_the_marks_that_languages_put_on_them() -> None:
    text = "Việt nàng e\u0301a o\u0302\u0301 नमस्ते שָׁלוֹם"
    assert preprocess(text, TextRules()) == unicodedata.normalize("NFC", text)


def test_a_letter_keeps_a_bounded_number_of_marks() -> None:
    spoken = preprocess("a" + "\u0301" * 4000 + "b", TextRules())
    assert len(spoken) < 40
    assert spoken.endswith("b")
