"""Text to chunks: limits, sentences, speakers, pauses, spelling."""

from __future__ import annotations

import re
import string
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echo.text import TextChunker, TextStream, split
from echo.text.normalize import parse_uppercase_words, preprocess
from echo.text.pack import cut_to_fit, estimate_seconds
from echo.text.sentences import SPEAKER_TAG, split_sentences
from echo.text.tokenize import encode, normalize
from echo.types import MAX_TEXT_BYTES, ChunkRules, TextChunk, TextRules

PLAIN = TextRules()
DEFAULT = ChunkRules()
#: Every sentence of some length is a chunk of its own, as a live conversation wants it.
LIVE = ChunkRules(target_s=1.0, min_s=1.0)
SMALL = ChunkRules(max_chars=150)
TIGHT = ChunkRules(target_s=3.0, min_s=1.0, max_s=4.0, max_bytes=60)
WHOLE = ChunkRules(enabled=False)
ALL_RULES = (DEFAULT, LIVE, SMALL, TIGHT, WHOLE)

bounded = settings(max_examples=60, deadline=None, derandomize=True, database=None)

ascii_words = st.text(string.ascii_letters + string.digits, min_size=1, max_size=12)
plain_text = st.lists(
    st.tuples(ascii_words, st.sampled_from(["", "", "", ",", ".", "!", "?", "..."]), st.sampled_from([" ", "\n"])),
    min_size=1,
    max_size=120,
).map(lambda parts: "".join(word + mark + space for word, mark, space in parts))
#: Text full of what the rules look for.
LISTED_TOKENS = """
    word Dr. e.g. 3.14 1. 12) *sighs* *he turns* ** * _ ` ``` ~~~ [ ] ( ) < > <b> </p> <!-- --> <break/> [S1] [S2]
    [pause:1s] [pause [happy] [a](b.c) https://x.org/a. | |-|-| # - --- . ! ? ... " ' : , ; — é ’ 😀 。 日本 &amp; a@b.c
"""
TOKENS = LISTED_TOKENS.split()
marked_text = st.lists(
    st.one_of(
        st.sampled_from(TOKENS),
        st.sampled_from([" ", " ", " ", "\n", "\n\n", "\r\n", "\t"]),
        st.text(max_size=4),
    ),
    max_size=60,
).map("".join)


def texts(chunks: list[TextChunk]) -> list[str]:
    return [chunk.text for chunk in chunks]


def spoken(chunks: list[TextChunk]) -> str:
    return " ".join(SPEAKER_TAG.sub("", chunk.text).strip() for chunk in chunks)


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def sounds(chunks: list[TextChunk]) -> list[str | int]:
    """What a listener gets: texts, and the silences between them."""
    heard: list[str | int] = []
    for chunk in chunks:
        heard += [chunk.pause_before_ms, chunk.text, chunk.pause_after_ms]
    merged: list[str | int] = []
    for item in heard:
        if isinstance(item, int) and merged and isinstance(merged[-1], int):
            merged[-1] += item
        else:
            merged.append(item)
    return merged


def fits(chunk: TextChunk, rules: ChunkRules) -> bool:
    sizes = len(chunk.text.encode()) <= rules.max_bytes and len(chunk.text) <= (rules.max_chars or 10**9)
    said = SPEAKER_TAG.sub(" ", chunk.text).split()
    seconds = estimate_seconds(" ".join(said), rules.chars_per_s, rules.words_per_s)
    return sizes and (not rules.enabled or seconds <= rules.max_s or len(said) == 1)


# -- properties ---------------------------------------------------------------------------------------------------


@bounded
@given(st.one_of(st.text(max_size=400), marked_text), st.sampled_from(ALL_RULES), st.booleans())
def test_any_text_gives_well_formed_chunks(text: str, rules: ChunkRules, strip: bool) -> None:
    chunks = split(text, TextRules(strip_markup=strip), rules)
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    for chunk in chunks:
        assert fits(chunk, rules)
        assert SPEAKER_TAG.match(chunk.text)
        assert any(char.isalnum() for char in SPEAKER_TAG.sub("", chunk.text))
        assert normalize(chunk.text) == chunk.text
        assert len(encode(chunk.text)) <= MAX_TEXT_BYTES
        assert chunk.pause_before_ms == 0 or chunk.index == 0
        assert 0 <= chunk.pause_after_ms <= 10_000


@bounded
@given(plain_text, st.sampled_from(ALL_RULES))
def test_no_word_of_a_plain_text_is_lost(text: str, rules: ChunkRules) -> None:
    assert words(spoken(split(text, PLAIN, rules))) == words(text)


# -- splitting ----------------------------------------------------------------------------------------------------


def test_short_text_is_one_chunk_with_the_default_tag() -> None:
    assert split("Hello there. How are you?", PLAIN, DEFAULT) == [TextChunk(0, "[S1] Hello there. How are you?")]


@pytest.mark.parametrize("text", ["", "   \n", "*sighs*", "😀", "...", "---", "[happy]", "[pause:2s]", "[S1]", "<br/>"])
def test_text_with_nothing_to_say_gives_no_chunk(text: str) -> None:
    assert split(text, PLAIN, DEFAULT) == []


def test_long_text_is_cut_between_sentences_near_the_target() -> None:
    text = " ".join(f"This is sentence number {n} of a rather long text about nothing." for n in range(40))
    chunks = split(text, PLAIN, DEFAULT)
    assert len(chunks) > 2
    for chunk in chunks[:-1]:
        assert chunk.text.endswith("nothing.")
        assert 20 <= estimate_seconds(chunk.text, 14, 2.7) <= 40


def test_chunking_off_gives_one_chunk_until_the_bytes_run_out() -> None:
    sentence = "This is one sentence of the text."
    assert len(split(" ".join([sentence] * 20), PLAIN, WHOLE)) == 1
    chunks = split(" ".join([sentence] * 30), PLAIN, WHOLE)
    assert [chunk.text.endswith("text.") for chunk in chunks] == [True, True]


def test_long_sentence_is_cut_after_a_clause_rather_than_inside_it() -> None:
    text = "We went up the long hill in the morning, and we came down again before the evening had begun"
    chunks = texts(split(text, PLAIN, replace(DEFAULT, max_chars=70)))
    assert chunks == [
        "[S1] We went up the long hill in the morning,",
        "[S1] and we came down again before the evening had begun",
    ]


def test_sentence_without_clauses_is_cut_between_words() -> None:
    chunks = texts(split("word " * 60, PLAIN, replace(DEFAULT, max_chars=150)))
    assert all(re.fullmatch(r"\[S1\] [Ww]ord( word)*", chunk) for chunk in chunks)
    assert max(map(len, chunks)) - min(map(len, chunks)) <= 10  # about equal pieces, no tiny tail


def test_word_too_long_for_a_chunk_is_cut_between_characters() -> None:
    chunks = texts(split("é" * 1000, PLAIN, DEFAULT))
    assert "".join(chunk.removeprefix("[S1] ") for chunk in chunks).lower() == "é" * 1000


def test_long_word_is_never_cut_because_of_its_duration() -> None:
    word = "a" * 100
    chunks = texts(split(f"one {word} two", PLAIN, replace(DEFAULT, target_s=1, min_s=1, max_s=1)))
    assert f"[S1] {word}" in chunks


def test_hard_cut_keeps_accents_with_their_letters() -> None:
    accented = "x\u0323\u0307" * 10  # no composed form, so three characters each
    pieces = cut_to_fit(accented, fits=lambda text: len(text) <= 7, must_fit=lambda text: len(text) <= 7)
    assert "".join(pieces) == accented
    assert all(piece.startswith("x") for piece in pieces)


def test_limits_nothing_fits_into_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 16"):
        TextChunker(PLAIN, replace(DEFAULT, max_chars=5))


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Mr. Smith met Dr. Jones (e.g. today). Good.", ["Mr. Smith met Dr. Jones (e.g. today).", "Good."]),
        ("It is 3.14 or so. Yes.", ["It is 3.14 or so.", "Yes."]),
        ("Wait... what? Really?! Yes.", ["Wait... what?", "Really?!", "Yes."]),
        ("1. Open the box. 2. Close it.", ["1. Open the box.", "2. Close it."]),
        ('He said "no." Then he left.', ['He said "no."', "Then he left."]),
        ("最初の文。次の文！終わり", ["最初の文。", "次の文！", "終わり"]),
        ("J. R. R. Tolkien wrote it. So did I. Yes.", ["J. R. R. Tolkien wrote it.", "So did I.", "Yes."]),
        ("no end", ["no end"]),
        ("  ", []),
    ],
)
def test_sentences_end_where_a_reader_would_pause(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


# -- speakers -----------------------------------------------------------------------------------------------------


def test_every_chunk_carries_the_tag_of_its_speaker() -> None:
    text = "[S1] How are you today, my friend? [S2] I am very well, thank you. And you, how are you? [S1] Fine, thanks."
    assert texts(split(text, PLAIN, LIVE)) == [
        "[S1] How are you today, my friend?",
        "[S2] I am very well, thank you.",
        "[S2] And you, how are you?",
        "[S1] Fine, thanks.",
    ]


def test_tags_inside_a_chunk_mark_changes_only() -> None:
    text = "[S2] yes. [S2] No. [S1] maybe."
    assert texts(split(text, PLAIN, DEFAULT)) == ["[S2] Yes. No. [S1] Maybe."]


def test_tokenizer_adds_no_second_tag() -> None:
    [chunk] = split("(see below) The S1 file.", PLAIN, DEFAULT)
    assert chunk.text == "[S1] (see below) The S1 file."
    assert encode(chunk.text) == [0, *chunk.text.encode()]


# -- pauses -------------------------------------------------------------------------------------------------------


def test_pause_splits_the_chunk_exactly_there() -> None:
    assert split("Wait [pause:1.5s] what? Go.", PLAIN, DEFAULT) == [
        TextChunk(0, "[S1] Wait", pause_after_ms=1500),
        TextChunk(1, "[S1] what? Go."),
    ]


@pytest.mark.parametrize(
    ("mark", "milliseconds"),
    [
        ("[pause:500ms]", 500),
        ("[pause 2s]", 2000),
        ("[PAUSE: .25 sec]", 250),
        ("[pause=1 second]", 1000),
        ("[pause:60s]", 10_000),
        ('<break time="750ms"/>', 750),
        ("<break strength='weak' time='1s' />", 1000),
        ("<break/>", 500),
    ],
)
@pytest.mark.parametrize("strip", [True, False])
def test_pause_marks(mark: str, milliseconds: int, strip: bool) -> None:
    chunks = split(f"Before. {mark} After.", TextRules(strip_markup=strip), DEFAULT)
    assert sounds(chunks) == [0, "[S1] Before.", milliseconds, "[S1] After.", 0]


def test_pauses_at_both_ends_have_their_place() -> None:
    assert split("[pause:1s] Hello. [pause:2s]", PLAIN, DEFAULT) == [
        TextChunk(0, "[S1] Hello.", pause_before_ms=1000, pause_after_ms=2000)
    ]


def test_adjacent_pauses_add_up_to_ten_seconds_at_most() -> None:
    chunks = split("One. [pause:4s] [pause:3s] Two. " + "[pause:9s]" * 50 + " Three.", PLAIN, LIVE)
    assert sounds(chunks) == [0, "[S1] One.", 7000, "[S1] Two.", 10_000, "[S1] Three.", 0]


def test_pause_of_zero_does_not_split() -> None:
    assert texts(split("One [pause:0s] two.", PLAIN, DEFAULT)) == ["[S1] One two."]


# -- passages -----------------------------------------------------------------------------------------------------


def test_numbers_speaker_and_sentence_go_on_from_passage_to_passage() -> None:
    stream, chunker = TextStream(), TextChunker(PLAIN, DEFAULT)
    stream.feed("[S2] One. Two is not")
    assert chunker.chunks(stream.flush()) == [TextChunk(0, "[S2] One. Two is not")]
    stream.feed("over. two")
    assert chunker.chunks(stream.flush()) == [TextChunk(1, "[S2] over. Two")]


def test_pause_that_opens_a_passage_goes_to_its_first_chunk() -> None:
    stream, chunker = TextStream(), TextChunker(PLAIN, DEFAULT)
    stream.feed("One. ")
    assert chunker.chunks(stream.take()) == [TextChunk(0, "[S1] One.")]
    stream.feed("[pause:8s][pause:8s] Two.")
    assert chunker.chunks(stream.flush()) == [TextChunk(1, "[S1] Two.", pause_before_ms=10_000)]


# -- spelling -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("naïve café, ÜBER groß", "Naïve café, über groß"),
        ("éa. éb", "Éa. Éb"),
        ("Здравствуй, МИР! Как", "Здравствуй, мир. Как"),
        ("cafe\u0301", "Café"),
        ("don’t ‘say’ “it” «so»", "Don't 'say' it so"),
        ("wow 😀👍🏽 yes ❤️ ☀ 1️⃣ 🇩🇪", "Wow yes 1"),
        ("nice 😀.", "Nice."),
        ("it is 20 °C — really…", "It is 20 °C, really,"),
        ("word — , then", "Word, then"),
        ("a\x00b\u200bc\ufeff \ud800 d", "Abc d"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("3 * 4 = 12", "3 times 4 = 12"),
        ("Node.js and .Net cost .5", "Node.js and .Net cost .5"),
        ("stop! stop!!! NASA", "Stop. Stop! Nasa"),
    ],
)
def test_server_spelling_keeps_letters_and_drops_pictures(text: str, expected: str) -> None:
    assert preprocess(text, PLAIN) == expected


def test_a_continued_sentence_keeps_its_first_letter() -> None:
    assert preprocess("and so", PLAIN, sentence_start=False) == "and so"


def test_keep_list_is_read_in_upper_case_without_comments() -> None:
    kept = parse_uppercase_words(["# acronyms", "nasa  # space", "", "Bbc"])
    assert kept == {"NASA", "BBC"}
    assert preprocess("NASA AND BBC'S", TextRules(keep_uppercase=kept)) == "NASA and BBC'S"


def test_exclamation_rule_can_be_switched_off() -> None:
    assert preprocess("stop! now!!!", TextRules(normalize_exclamation=False)) == "Stop! Now!!!"


def test_exclamations_are_normalised_once_only() -> None:
    assert texts(split("Stop!!! Now.", PLAIN, DEFAULT)) == ["[S1] Stop! Now."]
