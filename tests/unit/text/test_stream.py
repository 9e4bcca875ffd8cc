"""Text that arrives in pieces: what may be spoken when, and the same result however it arrives."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echo.text import Boundary, TextChunker, TextStream, split
from echo.text.sentences import SPEAKER_TAG
from echo.types import ChunkRules, TextChunk, TextRules

PLAIN = TextRules()
#: Every sentence is a chunk of its own.
SENTENCES = ChunkRules(target_s=0.1, min_s=0.1)
ALL_RULES = (ChunkRules(), SENTENCES, ChunkRules(target_s=3.0, min_s=1.0, max_s=4.0, max_bytes=60))

bounded = settings(max_examples=100, deadline=None, derandomize=True, database=None)

#: Text full of what the rules look for.
LISTED_TOKENS = """
    word Dr. e.g. 3.14 1. 12) *sighs* *he turns* ** * _ ` ``` ~~~ [ ] ( ) < > <b> </p> <!-- --> <break/> [S1] [S2]
    [pause:1s] [pause [happy] [a](b.c) https://x.org/a. | |-|-| # - --- . ! ? ... " ' : , ; — é ’ 😀 。 日本 &amp; a@b.c
    (laughs) (so, he said)
"""
marked_text = st.lists(
    st.one_of(
        st.sampled_from(LISTED_TOKENS.split()),
        st.sampled_from([" ", " ", " ", "\n", "\n\n", "\r\n", "\t"]),
        st.text(max_size=4),
    ),
    max_size=60,
).map("".join)
plain_text = st.lists(
    st.tuples(
        st.sampled_from(["so", "I", "went", "Mr.", "3.5", "home", "e.g."]),
        st.sampled_from(["", "", ",", ".", "!", "?", "..."]),
        st.sampled_from([" ", " ", "\n", "\n\n- "]),
    ),
    min_size=1,
    max_size=60,
).map(lambda parts: "".join("".join(part) for part in parts))
any_text = st.one_of(plain_text, marked_text, st.text(max_size=200))
cut_places = st.lists(st.integers(0, 10_000), max_size=40)
boundaries = st.sampled_from(Boundary)


def in_pieces(text: str, cuts: list[int]) -> list[str]:
    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[start:end] for start, end in pairwise(places)]


def handed_out(pieces: list[str], boundary: Boundary, *, eager: bool = False) -> list[str]:
    """What a caller gets who asks after every piece, and the rest at the end."""
    stream, passages = TextStream(), []
    for piece in pieces:
        stream.feed(piece)
        passages.append(stream.take(boundary, eager=eager))
    passages.append(stream.flush())
    assert not stream.pending
    return [passage.source for passage in passages if passage]


def spoken(chunks: list[TextChunk]) -> list[str]:
    return re.findall(r"[a-z0-9]+", " ".join(SPEAKER_TAG.sub("", chunk.text) for chunk in chunks).lower())


# -- properties ---------------------------------------------------------------------------------------------------


@bounded
@given(any_text, cut_places, st.sampled_from(ALL_RULES), st.booleans())
def test_any_pieces_give_the_chunks_of_the_whole_text(
    text: str, cuts: list[int], rules: ChunkRules, markup: bool
) -> None:
    stream = TextStream(markup=markup)
    for piece in in_pieces(text, cuts):
        stream.feed(piece)
    text_rules = TextRules(strip_markup=markup)
    assert TextChunker(text_rules, rules).chunks(stream.flush()) == split(text, text_rules, rules)


@bounded
@given(any_text, cut_places)
def test_sentences_do_not_depend_on_when_they_are_taken(text: str, cuts: list[int]) -> None:
    stream, chunker, chunks = TextStream(), TextChunker(PLAIN, SENTENCES), []
    for piece in in_pieces(text, cuts):
        stream.feed(piece)
        chunks += chunker.chunks(stream.take())
    chunks += chunker.chunks(stream.flush())
    assert [chunk.text for chunk in chunks] == [chunk.text for chunk in split(text, PLAIN, SENTENCES)]


@bounded
@given(any_text, cut_places, boundaries, st.booleans())
def test_nothing_is_lost_or_handed_out_twice(text: str, cuts: list[int], boundary: Boundary, eager: bool) -> None:
    taken = handed_out(in_pieces(text, cuts), boundary, eager=eager)
    assert "".join(taken).replace("\r\n", "\n") == text.replace("\r\n", "\n")


@pytest.mark.slow
@bounded
@given(any_text, cut_places, boundaries, st.booleans())
def test_no_passage_ends_within_a_word_or_a_number(text: str, cuts: list[int], boundary: Boundary, eager: bool) -> None:
    taken = handed_out(in_pieces(text, cuts), boundary, eager=eager)
    for before, after in pairwise(taken):
        assert not (before[-1].isalnum() and after[0].isalnum())
        assert not re.search(r"\d[.,]$", before) or not after[0].isdigit()


@pytest.mark.slow
@bounded
@given(plain_text, cut_places, boundaries)
def test_the_words_spoken_do_not_depend_on_the_passages(text: str, cuts: list[int], boundary: Boundary) -> None:
    chunker = TextChunker(PLAIN, ChunkRules())
    stream, chunks = TextStream(), []
    for piece in in_pieces(text, cuts):
        stream.feed(piece)
        chunks += chunker.chunks(stream.take(boundary))
    chunks += chunker.chunks(stream.flush())
    assert spoken(chunks) == spoken(split(text, PLAIN, ChunkRules()))


@bounded
@given(any_text, cut_places)
def test_flushing_without_the_last_word_cuts_no_word(text: str, cuts: list[int]) -> None:
    stream, taken = TextStream(), []
    for piece in in_pieces(text, cuts):
        stream.feed(piece)
        taken.append(stream.flush(hold_word=True).source)
    taken = [source for source in [*taken, stream.flush().source] if source]
    assert "".join(taken).replace("\r\n", "\n") == text.replace("\r\n", "\n")
    assert all(before[-1].isspace() for before in taken[:-1])


# -- what is speakable now ----------------------------------------------------------------------------------------


def test_a_sentence_is_handed_out_with_the_first_character_after_it() -> None:
    stream = TextStream()
    stream.feed("Hello there, how are you?")
    assert not stream.take()
    stream.feed(" I am fine, Mr.")
    assert stream.take().source == "Hello there, how are you?"
    stream.feed(" Smith.")
    assert not stream.take()
    stream.feed(" ")
    assert stream.take().source == " I am fine, Mr. Smith."
    assert stream.pending == " "


@pytest.mark.parametrize(
    ("text", "sentence", "clause", "word"),
    [
        ("One. Two. Thr", *["One. Two."] * 3),
        ("One. Two, th", *["One."] * 3),
        ("One, two, th", "", "One, two,", "One, two,"),
        ("It costs 3.", "", "", "It costs "),
        ("It costs 3,", "", "", "It costs "),
        ("Ask Dr. Who", "", "", "Ask Dr. "),
        ('He said "no." Then', *['He said "no."'] * 3),
        ("你好。再、见", *["你好。"] * 3),
        ("你好、见", "", *["你好、"] * 2),
        ("# A title, and more", "", "", ""),
        ("- An item, and more", "", *["- An item,"] * 2),
        ("- An item and more", "", "", "- An item and "),
        ("| a row, | and", "", "", ""),
        ("So *he turns, slow", "", "", "So "),
        ("So *he turns, slowly* ", "", "", "So "),
        ("So *he turns, slowly* and then", "", "", "So *he turns, slowly* and "),
        ("So [a, b](c.d/e) and, yes", "", *["So [a, b](c.d/e) and,"] * 2),
        ("Well (laughs, loudly", "", "", "Well "),
        ("Well, (laughs, loudly", "", "", "Well, "),
        ("5 * 3 is 15. Yes", *["5 * 3 is 15."] * 3),
        ("...", "", "", ""),
        ("", "", "", ""),
    ],
)
def test_text_is_cut_at_the_best_place_that_is_certain(text: str, sentence: str, clause: str, word: str) -> None:
    for boundary, expected in zip(Boundary, (sentence, clause, word), strict=True):
        stream = TextStream()
        stream.feed(text)
        assert stream.take(boundary).source == expected, boundary
        assert stream.pending == text.removeprefix(expected)


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("Hello there.", "Hello there."),
        ('He said "no."', 'He said "no."'),
        ("One. Two?!", "One. Two?!"),
        ("- An item.", "- An item."),
        ("It costs 3.", ""),
        ("Ask Dr.", ""),
        ("J.", ""),
        ("Well...", ""),
        ("Hello there", ""),
        ("# A title.", ""),
        ("```\n.", ""),
    ],
)
def test_an_eager_caller_trusts_a_mark_at_the_end(text: str, taken: str) -> None:
    stream = TextStream()
    stream.feed(text)
    assert stream.take(eager=True).source == taken


def test_mark_that_arrives_in_pieces_is_handed_out_whole() -> None:
    stream, chunker = TextStream(), TextChunker(PLAIN, SENTENCES)
    for piece in ("*she turns away. ", "Slowly*"):
        stream.feed(piece)
        assert not stream.take(Boundary.WORD)
    stream.feed(" What do you want from me? ")
    assert [chunk.text for chunk in chunker.chunks(stream.take())] == ["[S1] What do you want from me?"]


def test_code_that_arrives_in_pieces_is_not_spoken() -> None:
    stream, chunker = TextStream(), TextChunker(PLAIN, SENTENCES)
    chunks = []
    for piece in ("Like this:\n``", "`python\nprint(1). ", "And so\n``", "`\nEasy. "):
        stream.feed(piece)
        chunks += chunker.chunks(stream.take(Boundary.CLAUSE))
    assert [chunk.text for chunk in chunks] == ["[S1] Like this,", "[S1] Easy."]


def test_a_cut_does_not_change_what_a_mark_means() -> None:
    text = "I said, *Never again*, Then left"
    stream, chunker = TextStream(), TextChunker(PLAIN, ChunkRules())
    stream.feed(text[:9])
    chunks = chunker.chunks(stream.take(Boundary.CLAUSE))
    stream.feed(text[9:])
    chunks += chunker.chunks(stream.flush())
    assert spoken(chunks) == spoken(split(text, PLAIN, ChunkRules()))


def test_an_asterisk_that_never_closes_holds_back_its_line_only() -> None:
    stream = TextStream()
    stream.feed("*Terms apply to this offer. See the shop. ")
    assert not stream.take()
    stream.feed("\n\nx")
    assert stream.take().source == "*Terms apply to this offer. See the shop. \n\n"


@pytest.mark.parametrize(
    "pieces",
    [
        ["3.5,\n3", ".5\n"],  # a clause taken while the next line is undecided
        ["one\r", "\n\ntwo"],  # a line end in two pieces
        ["12)。", "Dr. A", "b. "],  # an abbreviation right after a sentence
    ],
)
def test_pieces_that_once_changed_the_result(pieces: list[str]) -> None:
    stream, chunker, chunks = TextStream(), TextChunker(PLAIN, SENTENCES), []
    for piece in pieces:
        stream.feed(piece)
        chunks += chunker.chunks(stream.take(Boundary.CLAUSE))
    chunks += chunker.chunks(stream.flush())
    assert spoken(chunks) == spoken(split("".join(pieces), PLAIN, SENTENCES))
    assert len(chunks) == 2


def test_a_list_item_is_spoken_sentence_by_sentence() -> None:
    stream = TextStream()
    stream.feed("- First, open it. Then")
    assert stream.take().source == "- First, open it."
    stream.feed(" close it\n")
    [unit] = stream.take().units
    assert (unit.text, unit.closes) == (" Then close it\n", True)


def test_what_cannot_be_spoken_waits_for_its_words() -> None:
    stream = TextStream()
    stream.feed(" “")
    assert not stream.speakable
    assert not stream.take(Boundary.WORD)
    stream.feed("... Yes,” he")
    assert stream.speakable
    assert stream.take(Boundary.WORD).source == " “... Yes,” "


def test_flush_hands_out_everything_and_more_may_follow() -> None:
    stream = TextStream()
    stream.feed("One. Two is no")
    assert stream.flush().source == "One. Two is no"
    assert not stream.flush()
    stream.feed("- an item")
    [unit] = stream.flush().units
    assert unit.at_line_start


def test_flush_can_hold_back_a_word() -> None:
    stream = TextStream()
    stream.feed("*never closed and wal")
    assert stream.flush(hold_word=True).source == "*never closed and "
    stream.feed("king")
    [unit] = stream.flush().units
    assert (unit.text, unit.at_line_start) == ("walking", False)
