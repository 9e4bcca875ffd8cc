from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from echo.audio.join import Joiner, JoinRules
from echo.types import Audio, AudioFrame
from train.evaluation.measure import CLICK_THRESHOLD, click_score

RATE = 44_100
PROMPTS = sorted((Path(__file__).parents[3] / "audio_prompts").glob("*.flac"))
RULES = JoinRules()
#: Samples at the start of a chunk that are muted or faded in.
START = round((RULES.settle_ms + RULES.fade_ms) * RATE / 1000) + 1


def samples_of(milliseconds: float) -> int:
    return round(milliseconds * RATE / 1000)


def silence(milliseconds: float) -> Audio:
    return np.zeros(samples_of(milliseconds), np.float32)


def room(milliseconds: float, seed: int = 0) -> Audio:
    """Noise at -70 dBFS: what a model leaves where nobody speaks."""
    return np.random.default_rng(seed).normal(0, 3e-4, samples_of(milliseconds)).astype(np.float32)


def tone(milliseconds: float, hertz: float = 220.0, phase: float = 0.0, amplitude: float = 0.3) -> Audio:
    time = np.arange(samples_of(milliseconds)) / RATE
    return (amplitude * np.sin(2 * np.pi * hertz * time + phase)).astype(np.float32)


def frames(samples: Audio, blocks: int = 3, chunk: int = 0) -> list[AudioFrame]:
    parts = np.array_split(samples, blocks)
    return [AudioFrame(part, RATE, chunk, i, is_last=i == blocks - 1) for i, part in enumerate(parts)]


def joined(chunks: Sequence[Audio], pauses: Sequence[float] = (), rules: JoinRules = RULES, blocks: int = 3) -> Audio:
    """The whole stream of chunks of samples, each followed by its pause in milliseconds."""
    joiner = Joiner(RATE, rules)
    parts = []
    for index, samples in enumerate(chunks):
        parts += [joiner.push(frame) for frame in frames(samples, blocks, index)]
        parts.append(joiner.end_chunk(pauses[index] if index < len(pauses) else 0))
    return np.concatenate([*parts, joiner.finish()])


def gaps_ms(samples: Audio, level: float = 0.002) -> list[float]:
    """Lengths of the stretches below the level that lie between louder ones, ignoring zero crossings."""
    loud = np.flatnonzero(np.abs(samples) > level)
    steps = np.diff(loud)
    return [1000 * float(step) / RATE for step in steps[steps > samples_of(15)]]


def test_blocks_of_one_chunk_pass_untouched_all_but_a_few_milliseconds() -> None:
    speech = tone(900)
    joiner = Joiner(RATE)
    out = np.zeros(0, np.float32)
    for block, frame in enumerate(frames(speech), 1):
        out = np.concatenate([out, joiner.push(frame)])
        assert len(out) == block * len(speech) // 3 - samples_of(RULES.fade_ms)
    assert np.array_equal(out[START:], speech[START : len(out)])


def test_silence_inside_a_chunk_is_kept_even_at_a_block_border() -> None:
    speech = np.concatenate([tone(300), silence(700), tone(300)])
    out = joined([speech], blocks=2)
    assert len(out) == len(speech)
    assert np.array_equal(out[START : -samples_of(5)], speech[START : -samples_of(5)])


def test_the_first_chunk_keeps_its_opening() -> None:
    speech = np.concatenate([silence(400), tone(300)])
    assert np.array_equal(joined([speech])[: samples_of(690)], speech[: samples_of(690)])


@pytest.mark.parametrize("tail", [0, 3, 60, 300, 1500])
@pytest.mark.parametrize("lead", [0, 3, 60, 300, 1500])
@pytest.mark.parametrize("blocks", [1, 2, 5])
def test_the_pause_between_chunks_is_natural_whatever_silence_was_generated(tail: int, lead: int, blocks: int) -> None:
    first = np.concatenate([tone(400), room(tail)])
    second = np.concatenate([room(lead, 1), tone(400)])
    sent_before_the_last_block = 1000 * sum(map(len, np.array_split(first, blocks)[:-1])) / RATE - 400
    (gap,) = gaps_ms(joined([first, second], blocks=blocks))
    assert gap == pytest.approx(max(RULES.pause_ms, sent_before_the_last_block + min(lead, RULES.lead_ms)), abs=15)


@pytest.mark.parametrize("phase", np.linspace(0, 2 * np.pi, 7))
@pytest.mark.parametrize("edge", [0, 20, 400])
@pytest.mark.parametrize("pause", [0, 300])
def test_no_click_at_any_border(phase: float, edge: int, pause: int) -> None:
    chunks = [np.concatenate([silence(edge), tone(250, 180 + 90 * i, phase + i), silence(edge)]) for i in range(3)]
    faded = [chunk * _edges(chunk, edge) for chunk in chunks]
    assert click_score(np.concatenate([silence(20), joined(faded, [pause] * 2)]), RATE) < CLICK_THRESHOLD


def _edges(chunk: Audio, edge: int) -> Audio:
    """A generated chunk has soft edges where it has silence; where it has none only the joiner can make them."""
    if not edge:
        return np.ones(len(chunk), np.float32)
    shape = np.zeros(len(chunk), np.float32)
    start, stop, ramp = samples_of(edge), len(chunk) - samples_of(edge), samples_of(8)
    shape[start:stop] = 1
    rise = (0.5 - 0.5 * np.cos(np.pi * np.arange(ramp) / ramp)).astype(np.float32)
    shape[start : start + ramp], shape[stop - ramp : stop] = rise, rise[::-1]
    return shape


def test_the_detector_would_have_heard_the_click_of_a_plain_concatenation() -> None:
    assert click_score(np.concatenate([tone(250), silence(200), tone(250, phase=1)]), RATE) > CLICK_THRESHOLD


@pytest.mark.parametrize("pause", [100, 500, 2000])
@pytest.mark.parametrize("edge", [0, 150, 800])
def test_an_explicit_pause_is_exactly_that_many_zeros(pause: int, edge: int) -> None:
    first = np.concatenate([tone(300), room(edge)])
    second = np.concatenate([room(edge, 1), tone(300)])
    out = joined([first, second], [pause], blocks=1)
    zeros = np.flatnonzero(out == 0)
    runs = np.split(zeros, np.flatnonzero(np.diff(zeros) != 1) + 1)
    longest = max(len(run) for run in runs)
    assert longest - samples_of(pause) in range(START if edge == 0 else 3)  # muted opening; fades touch zero
    (gap,) = gaps_ms(out)
    assert pause - 1 <= gap <= pause + RULES.tail_ms + RULES.lead_ms + 21


def test_a_pause_is_emitted_at_once() -> None:
    joiner = Joiner(RATE)
    for frame in frames(tone(300)):
        joiner.push(frame)
    assert len(joiner.end_chunk(500)) == samples_of(500) + samples_of(RULES.fade_ms)
    assert len(joiner.finish()) == 0


def test_pauses_before_and_between_and_after_silent_chunks_add_up() -> None:
    nothing = np.zeros(0, np.float32)
    out = joined([nothing, tone(200), room(300), tone(200)], [400, 300, 200, 100])
    assert np.array_equal(out[: samples_of(400)], silence(400))
    (gap,) = gaps_ms(out)
    assert gap == pytest.approx(500, abs=15)
    assert np.array_equal(out[-samples_of(100) :], silence(100))


def test_the_stream_ends_soon_after_the_last_sound() -> None:
    out = joined([np.concatenate([tone(400), room(2000)])], blocks=1)
    end = samples_of(400 + RULES.tail_ms)
    assert end - 1 <= len(out) <= end + samples_of(10)
    assert out[-1] == 0


def test_a_short_ending_is_not_lengthened() -> None:
    assert len(joined([np.concatenate([tone(400), room(50)])])) == samples_of(450)


def test_noise_after_a_short_word_fades_away() -> None:
    noise = room(400)
    out = joined([np.concatenate([tone(400), noise])], blocks=1)
    level = np.abs(out[samples_of(410) :])
    assert level[-samples_of(10) :].max() < 0.1 * np.abs(noise).max()
    body = slice(START, samples_of(440))
    assert np.array_equal(out[body], np.concatenate([tone(400), noise])[body])


def test_speech_that_was_cut_off_ends_in_a_fade_and_loses_nothing() -> None:
    speech = tone(400)
    out = joined([speech])
    assert len(out) == len(speech)
    assert np.array_equal(out[START : samples_of(395)], speech[START : samples_of(395)])
    assert click_score(np.concatenate([out, silence(50)]), RATE) < CLICK_THRESHOLD


@pytest.mark.parametrize("length", [0, 1, 30])
def test_a_last_block_too_short_for_a_fade_does_not_click_either(length: int) -> None:
    speech = tone(300, 150)
    joiner = Joiner(RATE)
    parts = [
        joiner.push(AudioFrame(speech[: len(speech) - length], RATE, 0, 0)),
        joiner.push(AudioFrame(speech[len(speech) - length :], RATE, 0, 1, is_last=True)),
        joiner.end_chunk(),
        joiner.finish(),
    ]
    out = np.concatenate([*parts, silence(50)])
    assert np.array_equal(out[START : samples_of(295)], speech[START : samples_of(295)])
    assert len(out) == len(speech) + samples_of(50)
    assert click_score(out, RATE) < CLICK_THRESHOLD


def test_silence_that_was_already_sent_counts_towards_the_pause() -> None:
    joiner = Joiner(RATE)
    parts = [
        joiner.push(AudioFrame(np.concatenate([tone(300), room(150)]), RATE, 0, 0)),
        joiner.push(AudioFrame(room(500), RATE, 0, 1, is_last=True)),
        joiner.end_chunk(),
        joiner.push(AudioFrame(np.concatenate([room(300), tone(300)]), RATE, 1, 0, is_last=True)),
        joiner.end_chunk(),
        joiner.finish(),
    ]
    (gap,) = gaps_ms(np.concatenate(parts))
    assert gap == pytest.approx(RULES.pause_ms, abs=15)


def test_an_opening_silence_longer_than_a_block_is_trimmed_too() -> None:
    second = np.concatenate([room(1500), tone(400)])
    out = joined([tone(400), second], blocks=8)
    (gap,) = gaps_ms(out)
    assert gap == pytest.approx(RULES.pause_ms, abs=15)


def test_the_tick_of_a_starting_decoder_is_neither_heard_nor_taken_for_speech() -> None:
    tick = (0.06 * np.exp(-np.arange(samples_of(3)) / 40.0)).astype(np.float32)
    chunk = np.concatenate([tick, room(60), tone(300)])
    out = joined([chunk, chunk])
    assert np.abs(out[: samples_of(50)]).max() < 2e-3
    (gap,) = gaps_ms(out)
    assert gap == pytest.approx(RULES.pause_ms, abs=15)


def test_what_is_too_soft_to_tell_is_kept_before_a_sound_that_opens_a_block() -> None:
    breath = room(300)
    joiner = Joiner(RATE)
    joiner.push(AudioFrame(tone(300), RATE, 0, is_last=True))
    joiner.end_chunk()
    assert len(joiner.push(AudioFrame(breath, RATE, 1, 0))) == 0
    out = joiner.push(AudioFrame(tone(300, phase=1), RATE, 1, 1))
    onset = len(out) - samples_of(300 - RULES.fade_ms)
    kept = samples_of(RULES.lead_ms / 2) - 1
    assert np.array_equal(out[onset - kept : onset], breath[-kept:])


def test_a_soft_consonant_at_either_edge_survives_in_full() -> None:
    hiss = (np.random.default_rng(5).normal(0, 0.3 * 10 ** (-38 / 20), samples_of(120))).astype(np.float32)
    chunk = np.concatenate([room(400), hiss, tone(300), hiss, room(400)])
    out = joined([chunk, chunk])
    wanted = np.concatenate([hiss, tone(300), hiss])
    starts = [i for i in np.flatnonzero(out == wanted[0]) if np.array_equal(out[i : i + len(wanted)], wanted)]
    assert len(starts) == 2


@pytest.mark.parametrize("path", PROMPTS, ids=lambda path: path.stem)
def test_recorded_speech_is_joined_without_a_click_or_a_lost_word(path: Path) -> None:
    speech = np.asarray(sf.read(path, dtype="float32")[0], np.float32)
    out = joined([speech, speech])
    assert click_score(out, RATE) < CLICK_THRESHOLD
    for start in (samples_of(100), samples_of(1000)):
        body = speech[start : len(speech) - samples_of(100)]
        found = np.flatnonzero(out == body[0])
        assert sum(np.array_equal(out[i : i + len(body)], body) for i in found) == 2


def test_rules_can_be_changed() -> None:
    rules = JoinRules(pause_ms=600, lead_ms=10, tail_ms=20, fade_ms=2)
    out = joined([np.concatenate([tone(300), room(500)])] * 2, rules=rules, blocks=1)
    (gap,) = gaps_ms(out)
    assert gap == pytest.approx(600, abs=15)
    assert len(out) == pytest.approx(samples_of(300 + 600 + 300 + 20), abs=samples_of(11))


def test_no_frames_at_all_is_no_samples() -> None:
    joiner = Joiner(RATE)
    assert len(joiner.end_chunk()) == 0
    assert len(joiner.finish()) == 0


def test_a_frame_at_another_rate_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="24000 Hz"):
        Joiner(RATE).push(AudioFrame(tone(10), 24_000))


def test_a_frame_after_the_last_of_a_chunk_is_a_mistake() -> None:
    joiner = Joiner(RATE)
    joiner.push(AudioFrame(tone(10), RATE, is_last=True))
    with pytest.raises(ValueError, match="end_chunk"):
        joiner.push(AudioFrame(tone(10), RATE))
