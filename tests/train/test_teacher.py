import random
import re
from itertools import pairwise

import numpy as np
import pytest

from train.tiny.teacher.espeak import Espeak, Tuning
from train.tiny.teacher.flite import VOICES, Flite
from train.tiny.teacher.library import TeacherMissing, load_library
from train.tiny.teacher.phones import PAUSE, PHONES, Span, Speech, Word, character_times, word_bytes
from train.tiny.teacher.speakers import FASTEST, SLOWEST, Speaker, cast
from train.tiny.teacher.studio import LEAD_S, LOUDNESS, RATE, TAIL_S, Studio, Take
from train.tiny.teacher.texts import LONGEST, SHORTEST, Everyday, Texts, sentence_of, wordnet
from train.tiny.teacher.world import Shift, World

TEXT = "The quick, brown-eyed fox isn't here. Did Anna's friend leave?"
WORDS = ["The", "quick", "brown-eyed", "fox", "isn't", "here", "Did", "Anna's", "friend", "leave"]
EXAMPLES = [f"The {thing} was left near the old gate." for thing in ("lantern", "wagon", "ladder", "basket")]


@pytest.fixture(scope="module")
def flite() -> Flite:
    return Flite()


@pytest.fixture(scope="module")
def espeak() -> Espeak:
    return Espeak()


@pytest.fixture(scope="module")
def texts() -> Texts:
    return Texts(Everyday.bundled(), EXAMPLES, ["A bird of the open sea."])


def spoken(text: str, speech: Speech) -> dict[str, str]:
    return {text[word.start : word.end]: " ".join(phone.symbol for phone in word.phones) for word in speech.words}


def median_pitch(samples: np.ndarray, rate: int) -> float:
    """Of the strongest autocorrelation peak in 60 to 400 Hz over loud frames."""
    size = rate // 20
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    loud = frames[np.std(frames, axis=1) > np.std(samples)]
    power = np.abs(np.fft.rfft(loud - loud.mean(axis=1, keepdims=True), 4 * size)) ** 2
    lags = np.fft.irfft(power)[:, rate // 400 : rate // 60]
    return float(np.median(rate / (np.argmax(lags, axis=1) + rate // 400)))


def centroid(samples: np.ndarray, rate: int) -> float:
    power = np.abs(np.fft.rfft(samples)) ** 2
    return float(np.sum(np.fft.rfftfreq(len(samples), 1 / rate) * power) / np.sum(power))


@pytest.mark.parametrize("voice", VOICES)
def test_every_voice_of_flite_says_every_word_with_known_phones(flite: Flite, voice: str) -> None:
    speech = flite.speak(TEXT, voice)
    assert list(spoken(TEXT, speech)) == WORDS
    assert spoken(TEXT, speech)["quick"] == "k w ih k"
    assert {phone.symbol for phone in speech.phones} <= set(PHONES)
    last_sound = max(phone.end for phone in speech.phones if phone.symbol != PAUSE)
    assert last_sound < len(speech.samples) / speech.rate <= speech.phones[-1].end + 0.01
    assert 0.02 < np.std(speech.samples) < 0.5


def test_the_phones_of_flite_follow_one_another_without_gaps(flite: Flite) -> None:
    phones = flite.speak(TEXT, "slt").phones
    assert phones[0].start == 0.0
    assert all(before.end == after.start and after.end > after.start for before, after in pairwise(phones))


def test_a_stretch_of_flite_holds_for_one_text_only(flite: Flite) -> None:
    plain = flite.speak(TEXT, "rms")
    slow = flite.speak(TEXT, "rms", stretch=1.25)
    again = flite.speak(TEXT, "rms")
    assert len(slow.samples) == pytest.approx(1.25 * len(plain.samples), rel=0.02)
    assert np.array_equal(again.samples, plain.samples)


def test_a_text_that_flite_reads_otherwise_is_refused(flite: Flite) -> None:
    with pytest.raises(ValueError, match="words where the text has"):
        flite.speak("It costs 50 % more than in 1999.", "slt")


def test_espeak_says_every_word_with_phones_of_the_shared_inventory(espeak: Espeak) -> None:
    speech = espeak.speak(TEXT, Tuning("f2"))
    assert list(spoken(TEXT, speech)) == WORDS
    assert spoken(TEXT, speech)["quick"] == "k w ih k"
    assert {phone.symbol for phone in speech.phones} <= set(PHONES)
    assert PAUSE in {phone.symbol for phone in speech.phones}


def test_espeak_follows_rate_and_pitch(espeak: Espeak) -> None:
    usual = espeak.speak(TEXT, Tuning("m3"))
    slow = espeak.speak(TEXT, Tuning("m3", words_per_minute=120))
    high = espeak.speak(TEXT, Tuning("m3", pitch=90))
    assert len(slow.samples) > 1.15 * len(usual.samples)
    assert median_pitch(high.samples, high.rate) > 1.2 * median_pitch(usual.samples, usual.rate)


def test_an_unknown_variant_of_espeak_is_named(espeak: Espeak) -> None:
    with pytest.raises(ValueError, match="'nobody'"):
        espeak.speak(TEXT, Tuning("nobody"))


def test_a_missing_library_names_the_package_to_install() -> None:
    with pytest.raises(TeacherMissing, match="apt install libflite1"):
        load_library("libflite.so.99", "libflite1")


def test_missing_wordnet_names_the_package_to_install(tmp_path) -> None:
    with pytest.raises(TeacherMissing, match="apt install wordnet-base"):
        wordnet(tmp_path)


def test_words_keep_their_hyphens_and_apostrophes() -> None:
    assert [TEXT[start:end] for start, end in word_bytes(TEXT)] == WORDS


def test_the_bytes_of_a_word_lie_on_its_phones_and_a_comma_on_its_pause() -> None:
    words = (
        Word(0, 2, (Span("ax", 0.0, 0.2), Span("b", 0.2, 0.4))),
        Word(4, 6, (Span("k", 1.0, 1.2), Span("d", 1.2, 1.4))),
    )
    times = character_times("ab, cd", words)
    assert times == pytest.approx([0.1, 0.3, 0.55, 0.85, 1.1, 1.3])


def test_more_phones_than_letters_share_the_letters() -> None:
    word = Word(0, 1, (Span("ey", 0.0, 0.2), Span("t", 0.2, 0.3), Span("s", 0.3, 0.6)))
    assert character_times("X.", (word,)) == pytest.approx([0.25, 0.6])


def test_a_shift_moves_pitch_and_brightness_but_not_time(flite: Flite) -> None:
    plain = flite.speak(TEXT, "slt")
    low = World().shifted(plain.samples, plain.rate, Shift(pitch=0.7, formants=(0.85,) * 4, tilt=-1.0))
    assert low.shape == plain.samples.shape
    assert median_pitch(low, plain.rate) == pytest.approx(0.7 * median_pitch(plain.samples, plain.rate), rel=0.08)
    assert centroid(low, plain.rate) < 0.85 * centroid(plain.samples, plain.rate)
    envelopes = [np.abs(wave[: len(wave) // 160 * 160]).reshape(-1, 160).mean(axis=1) for wave in (plain.samples, low)]
    assert np.corrcoef(envelopes)[0, 1] > 0.8


def test_breath_adds_noise_above_a_kilohertz(flite: Flite) -> None:
    plain = flite.speak(TEXT, "rms")
    clear, breathy = (World().shifted(plain.samples, plain.rate, Shift(1.0, breath=part)) for part in (0.0, 1.0))
    assert not np.allclose(clear, breathy, atol=0.01)
    assert median_pitch(breathy, plain.rate) == pytest.approx(median_pitch(clear, plain.rate), rel=0.05)


def test_the_shift_of_a_silence_is_silence() -> None:
    silent = World().shifted(np.zeros(8_000), 16_000, Shift(1.3))
    assert np.abs(silent).max() < 1e-3


def test_the_cast_has_sixty_speakers_of_natural_voices_and_holds_some_out() -> None:
    everybody = cast()
    trained = [speaker for speaker in everybody if not speaker.held_out]
    shifted = [speaker for speaker in trained if speaker.shift is not None]
    assert len({speaker.name for speaker in everybody}) == len(everybody)
    assert len(shifted) >= 60
    assert len({speaker.shift for speaker in everybody if speaker.shift}) == len(shifted) + sum(
        speaker.held_out and speaker.shift is not None for speaker in everybody
    )
    held_out = [speaker for speaker in everybody if speaker.held_out]
    assert len(held_out) >= 10
    assert sum(speaker.teacher == "flite" for speaker in held_out) >= 6
    assert all(SLOWEST <= speaker.words_per_minute <= FASTEST for speaker in everybody)
    natural = sum(speaker.weight for speaker in trained if speaker.teacher == "flite")
    assert natural > 0.85 * sum(speaker.weight for speaker in trained)


@pytest.mark.parametrize("voice", ["flite-slt", "flite-rms-07", "espeak-f1"])
def test_a_take_is_level_trimmed_and_timed(voice: str) -> None:
    speaker = next(member for member in cast() if member.name == voice)
    take = Studio().record(speaker, TEXT)
    seconds = len(take.samples) / RATE
    assert take.samples.dtype == np.float32
    assert np.sqrt(np.mean(take.samples**2)) == pytest.approx(LOUDNESS, rel=0.02)
    assert np.abs(take.samples).max() <= 0.99 + 1e-6
    assert take.phones[0] == Span(PAUSE, 0.0, LEAD_S)
    assert take.phones[-1].end == pytest.approx(seconds, abs=0.002)
    assert take.phones[-1].end - take.phones[-1].start == pytest.approx(TAIL_S)
    assert take.characters.shape == (len(TEXT),)
    assert take.characters[0] >= LEAD_S
    assert take.characters[-1] <= seconds - TAIL_S + 1e-3
    assert (np.diff(take.characters) >= 0).all()


def test_the_vowels_are_louder_than_the_pauses_at_their_times() -> None:
    take = Studio().record(Speaker("reader", "flite", "rms", 160.0), "Good morning, everybody. Nobody ran, of course.")

    def power(symbols: set[str]) -> float:
        pieces = [
            take.samples[round(phone.start * RATE) : round(phone.end * RATE)]
            for phone in take.phones[1:-1]
            if phone.symbol in symbols
        ]
        return float(np.mean(np.concatenate(pieces) ** 2))

    assert power({"ae", "ao", "ow", "ah", "eh", "uh", "iy"}) > 20 * power({PAUSE})


def test_a_speaker_keeps_about_the_announced_rate() -> None:
    everyday, rng, studio = Everyday.bundled(), random.Random(3), Studio()
    said = [everyday.draw(rng) for _ in range(20)]
    takes = [studio.record(Speaker("reader", "flite", "slt", 150.0), text) for text in said]
    minutes = sum(take.phones[-1].start - LEAD_S for take in takes) / 60
    assert sum(len(text.split()) for text in said) / minutes == pytest.approx(150, rel=0.25)


def test_a_recording_played_faster_is_higher_and_its_times_come_earlier() -> None:
    take = Studio().record(Speaker("reader", "flite", "rms", 160.0), "A morning on the moon.")
    faster = take.played(1.25)
    assert np.sqrt(np.mean(faster.samples**2)) == pytest.approx(LOUDNESS, rel=0.01)
    assert faster.samples.dtype == np.float32
    assert [phone.symbol for phone in faster.phones] == [phone.symbol for phone in take.phones]
    assert faster.phones[-1].end == pytest.approx(len(faster.samples) / RATE, abs=1e-3)
    assert faster.characters == pytest.approx(take.characters / 1.25, abs=1e-4)
    # A tone is higher by the same factor: so is everything else.
    tone = np.sin(2 * np.pi * 400 * np.arange(RATE) / RATE).astype(np.float32)
    spectrum = np.abs(np.fft.rfft(Take(tone, (), np.zeros(0, np.float32)).played(1.25).samples))
    assert np.argmax(spectrum) * 1.25 == pytest.approx(500, abs=2)
    assert take.played(1.0) is take


def test_a_speaker_on_tape_keeps_the_announced_rate() -> None:
    text = "Good morning, everybody. Nobody ran, of course, and nothing was said about it afterwards."
    plain, high = (
        Studio().record(Speaker("reader", "flite", "rms", 160.0, played=played), text) for played in (1.0, 1.2)
    )
    assert len(high.samples) == pytest.approx(len(plain.samples), rel=0.05)


def test_everyday_sentences_are_filled_speakable_and_varied() -> None:
    everyday, rng = Everyday.bundled(), random.Random(1)
    drawn = [everyday.draw(rng) for _ in range(2_000)]
    assert all(re.fullmatch(r"[A-Z][A-Za-z ,.?!'-]*[.?!]", text) for text in drawn)
    assert not [text for text in drawn if re.search(r"\b[Aa] [aeio]", text)]
    assert len(set(drawn)) > 1_500
    assert {len(text.split()) for text in drawn} >= {1, 2, 3, 5, 8, 13}


def test_texts_fit_the_model_and_never_repeat_a_held_out_one(texts: Texts) -> None:
    rng = random.Random(2)
    drawn = [texts.draw(rng) for _ in range(3_000)]
    assert all(SHORTEST <= len(text) <= LONGEST for text in drawn)
    assert not set(drawn) & set(texts.held_out)
    assert not [(text, held) for text in drawn for held in texts.held_out if len(held) >= 25 and held in text]


def test_the_held_out_texts_do_not_depend_on_the_seed(texts: Texts) -> None:
    again = Texts(Everyday.bundled(), EXAMPLES, ["A bird of the open sea."])
    assert again.held_out == texts.held_out
    assert len(set(texts.held_out)) == 60


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        ("rainy days in May", "Rainy days in May."),
        ("why not go there?", "Why not go there?"),
        ("a bird; it sings", "A bird, it sings."),
        ("someone -- maybe her -- came", "Someone, maybe her, came."),
        ("the bullet didn't come close", "The bullet didn't come close."),
        ("born in 1980", None),
        ("the NATO countries", None),
        ("Dr. Brown is here", None),
        ("the letter b is missing", None),
        ("déjà vu again", None),
        ("short", None),
        ("word " * 40, None),
    ],
)
def test_a_raw_phrase_becomes_a_sentence_or_nothing(raw: str, sentence: str | None) -> None:
    assert sentence_of(raw) == sentence


def test_the_format_of_wordnet_is_read(tmp_path) -> None:
    line = (
        '00001740 03 n 01 entity 0 003 ~ 00001930 n 0000 | (law) that which is perceived; "an entity of the mind"; "hi"'
    )
    (tmp_path / "data.noun").write_text(f"  1 This is the licence text.\n{line}\n", encoding="latin-1")
    assert wordnet(tmp_path) == (["An entity of the mind."], ["That which is perceived."])
