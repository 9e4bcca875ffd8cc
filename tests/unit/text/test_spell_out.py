"""Numbers and the like as words, for a model that reads nothing else."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echo.text import split
from echo.text.spell_out import cardinal, expansions, ordinal, spell_out, year
from echo.types import ChunkRules, TextRules

bounded = settings(max_examples=300, deadline=None, derandomize=True, database=None)
#: What is often beside a figure.
FIGURES = st.text(alphabet="0123456789.,:/-+%$€£#°' aAbBkKmMpPsS[]()\n", max_size=40)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (19, "nineteen"),
        (20, "twenty"),
        (99, "ninety-nine"),
        (100, "one hundred"),
        (101, "one hundred and one"),
        (1_001, "one thousand and one"),
        (1_234_567, "one million two hundred and thirty-four thousand five hundred and sixty-seven"),
        (10**12 + 1, "one trillion and one"),
    ],
)
def test_a_number_is_named(number: int, words: str) -> None:
    assert cardinal(number) == words


def test_every_number_has_a_name_of_its_own() -> None:
    assert len({cardinal(number) for number in range(20_000)}) == 20_000
    assert len({ordinal(number) for number in range(20_000)}) == 20_000


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (1, "first"),
        (12, "twelfth"),
        (20, "twentieth"),
        (21, "twenty-first"),
        (100, "one hundredth"),
        (105, "one hundred and fifth"),
    ],
)
def test_a_place_is_named(number: int, words: str) -> None:
    assert ordinal(number) == words


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (1900, "nineteen hundred"),
        (1905, "nineteen oh five"),
        (2000, "two thousand"),
        (2007, "two thousand and seven"),
        (2024, "twenty twenty-four"),
    ],
)
def test_a_year_is_named(number: int, words: str) -> None:
    assert year(number) == words


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("No words, no change; at all - not even here.", "No words, no change; at all - not even here."),
        ("a 2.8-billion-parameter model", "a two point eight billion-parameter model"),
        ("at 44.1 kHz or 20kHz", "at forty-four point one kilohertz or twenty kilohertz"),
        ("1 km, 2 km", "one kilometer, two kilometers"),
        (
            "at 5 pm, 17:30, 3:05, 12:00 and 6:30 a.m.",
            "at five pee em, seventeen thirty, three oh five, twelve o'clock and six thirty ay em.",
        ),
        ("In 2024, 1,234 came.", "In twenty twenty-four, one thousand two hundred and thirty-four came."),
        ("Call 555-1234.", "Call five five five, one two three four."),
        (
            "$5.50, $1, £0.01, €3.5m, $2 billion",
            "five dollars and fifty cents, one dollar, one penny, three point five million euros, two billion dollars",
        ),
        ("the 1st, 22nd and 100th", "the first, twenty-second and one hundredth"),
        ("the 1990s and '80s", "the nineteen nineties and eighties"),
        ("20% better", "twenty percent better"),
        ("10-12 people, 1/2, 3/4, 24/7", "ten to twelve people, one half, three quarters, twenty-four seven"),
        ("-5 degrees, 30°C", "minus five degrees, thirty degrees Celsius"),
        ("version 1.2.3", "version one point two point three"),
        ("agent 007", "agent zero zero seven"),
        ("It is #1", "It is number one"),
        ("R2D2, MP3s and 4K", "ar two dee two, em pee threes and four kay"),
        ("the GPUs of an OpenAI-compatible TTS", "the gee pee yous of an Open ay eye compatible tee tee ess"),
        ("At 6 p.m. we left, at 9 a.m. Paul came.", "At six pee em we left, at nine ay em. Paul came."),
        ("He is 5 ft. tall.", "He is five feet tall."),
        (
            "the 1939-1945 war, 10–12 people",
            "the nineteen thirty-nine to nineteen forty-five war, ten to twelve people",
        ),
        (
            "$5-$10, 50%-60%, 5pm-6pm",
            "five dollars to ten dollars, fifty percent to sixty percent, five pee em to six pee em",
        ),
        ("2024-13-45", "twenty twenty-four to thirteen to forty-five"),
        ("99/99/2024", "ninety-nine/ninety-nine/twenty twenty-four"),
        ("-$5, .5, $.50", "minus five dollars, point five, fifty cents"),
        (
            "12/25/2024, 25/12/2010, 2008-01-31",
            "December twenty-fifth, twenty twenty-four, December twenty-fifth, twenty ten, "
            "January thirty-first, two thousand and eight",
        ),
        (
            "10:30:45, 16:9, 0:00, 7:00 o'clock",
            "ten thirty and forty-five seconds, sixteen to nine, midnight, seven o'clock",
        ),
        (
            "$5/month, 100 MB/s, 10 km/h",
            "five dollars per month, one hundred megabytes per second, ten kilometers an hour",
        ),
        (
            "5€, ½ cup, 3½, 1 1/2, 2/3rds, 10²",
            "five euros, one half cup, three and a half, one and a half, two thirds, ten squared",
        ),
        ("a 5-km run, 1.5M, 50K", "a five kilometer run, one point five million, fifty thousand"),
        ("HE LED. MHM. HMPH! BZZT.", "HE LED. MHM. HMPH! BZZT."),
        ("MR. SMITH, 21ST", "Mister SMITH, twenty-first"),
        ("the 1990's, 80's, ECHO_TTS", "the nineteen nineties, eighties, ECHO_TTS"),
        (
            "+1-555-123-4567, (555) 123-4567",
            "one, five five five, one two three, four five six seven, "
            "five five five, one two three, four five six seven",
        ),
        ("STOP! HMM, NASA. SHH!", "STOP! HMM, NASA. SHH!"),
        ("Mr. Smith, e.g. rock & roll", "Mister Smith, for example rock and roll"),
        ("1+2=3", "one plus two equals three"),
        ("[S2] 5. [S12] 6.", "[S2] five. [S12] six."),
        ("٣ and 9" + 20 * "0", "three and nine" + 20 * " zero"),
    ],
)
def test_what_is_no_word_is_spelled_out(written: str, said: str) -> None:
    assert spell_out(written) == said


@pytest.mark.parametrize(
    "text", ["$" + "1" * 5_000 + ".50", "1" * 5_000 + "st", "1" * 5_000 + " km", "1" * 5_000 + "/2"]
)
def test_a_number_of_any_length_is_read(text: str) -> None:
    assert spell_out(text).count("one") >= 4_990


@bounded
@given(st.text() | FIGURES)
def test_no_figure_is_left_outside_of_speaker_tags(text: str) -> None:
    said = spell_out(text)
    assert not re.search(r"[0-9]", re.sub(r"\[S\d+\]", "", said))
    assert spell_out(said) == said


@bounded
@given(st.text() | FIGURES)
def test_expansions_are_in_order_and_say_something(text: str) -> None:
    end = 0
    for found in expansions(text):
        assert end <= found.start < found.end <= len(text)
        assert any(char.isalpha() for char in found.words)
        end = found.end


def test_only_a_model_that_reads_nothing_else_gets_words() -> None:
    text = "Meet me at 5:30, room 12."
    (plain,) = split(text, TextRules(), ChunkRules())
    (spelled,) = split(text, TextRules(spell_out=True), ChunkRules())
    assert plain.text == "[S1] Meet me at 5,30, room 12."
    assert spelled.text == "[S1] Meet me at five thirty, room twelve."


def test_a_chunk_of_words_keeps_the_limit() -> None:
    chunks = split("It is 777,777,777. " * 20, TextRules(spell_out=True), ChunkRules(max_chars=150))
    assert len(chunks) > 10
    assert max(len(chunk.text) for chunk in chunks) <= 150
