import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from echo.types import Audio
from echo.vad import SilenceGate, SilenceRules, Span, SpeechDetector
from train.evaluation.measure import speech_span

RATE = 44_100
PROMPTS = sorted((Path(__file__).parents[2] / "audio_prompts").glob("*.flac"))


@pytest.fixture(scope="module")
def detector() -> SpeechDetector:
    return SpeechDetector()


def spoken(path: Path) -> Audio:
    samples = np.asarray(sf.read(path, dtype="float32")[0], np.float32)
    span = speech_span(samples, RATE)
    assert span is not None
    return samples[int(span[0] * RATE) : int(span[1] * RATE)]


def with_pause(first: Path, second: Path, seconds: float) -> Audio:
    return np.concatenate([spoken(first), np.zeros(int(seconds * RATE), np.float32), spoken(second)])


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 2, 4])
def test_a_pause_between_two_sentences_is_found_where_it_is(detector: SpeechDetector, index: int) -> None:
    first, second = PROMPTS[index], PROMPTS[index - 1]
    silences = detector.silences(with_pause(first, second, 1.5), RATE)
    start, end = max(silences, key=lambda span: span[1] - span[0])
    assert start == pytest.approx(len(spoken(first)) / RATE, abs=0.15)
    assert end == pytest.approx(len(spoken(first)) / RATE + 1.5, abs=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("path", PROMPTS[1::3], ids=lambda path: path.stem)
def test_the_gate_measures_a_long_pause_and_none_in_speech_without(detector: SpeechDetector, path: Path) -> None:
    gate = SilenceGate(SilenceRules(), detector.silences)
    assert gate.longest_silence_ms(spoken(path), RATE) < gate.threshold_ms
    assert gate.longest_silence_ms(with_pause(path, path, 1.5), RATE) == pytest.approx(1500, abs=150)


def test_a_clip_without_speech_is_one_silence(detector: SpeechDetector) -> None:
    assert detector.silences(np.zeros(RATE, np.float32), RATE) == [(0.0, 1.0)]
    assert detector.speech(np.zeros(RATE, np.float32), RATE) == []
    assert detector.silences(np.zeros(0, np.float32), RATE) == []


def test_spans_cover_the_clip_in_order(detector: SpeechDetector) -> None:
    samples = with_pause(PROMPTS[0], PROMPTS[1], 0.8)
    spans = sorted([*detector.speech(samples, RATE), *detector.silences(samples, RATE)])
    assert spans[0][0] == 0
    assert spans[-1][1] == pytest.approx(len(samples) / RATE, abs=1e-3)
    for (_, end), (start, _) in pairwise(spans):
        assert start == end


@pytest.mark.slow
def test_another_sample_rate_gives_the_same_times(detector: SpeechDetector) -> None:
    samples = with_pause(PROMPTS[2], PROMPTS[3], 1.2)
    fine, coarse = detector.silences(samples, RATE), detector.silences(samples[::2], RATE // 2)
    longest = [max(spans, key=lambda span: span[1] - span[0]) for spans in (fine, coarse)]
    assert longest[0] == pytest.approx(longest[1], abs=0.1)


@pytest.mark.slow
def test_many_threads_share_one_detector(detector: SpeechDetector) -> None:
    samples = [with_pause(PROMPTS[i], PROMPTS[i + 1], 0.5 + i / 2) for i in range(3)]
    alone = [detector.silences(clip, RATE) for clip in samples]
    together: list[list[Span]] = [[], [], []]

    def work(index: int) -> None:
        together[index] = detector.silences(samples[index], RATE)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_loading_leaves_torchs_threads_alone() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        SpeechDetector().load()
        seen = [torch.get_num_threads()]
        later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        later.start()
        later.join()
        assert seen == [2, 2]
    finally:
        torch.set_num_threads(before)


def scripted(*spans: Span) -> SilenceGate:
    """Return a gate whose detector finds these silences in everything."""
    return SilenceGate(SilenceRules(), lambda samples, rate: spans)


TEN_SECONDS = np.zeros(10 * 1000, np.float32)


def test_a_block_that_must_hold_speech_and_does_not_is_silent_without_end() -> None:
    gate = scripted((0.0, 10.0))
    assert gate.longest_silence_ms(TEN_SECONDS, 1000, is_last=True, needs_speech=True) == float("inf")
    assert gate.longest_silence_ms(TEN_SECONDS, 1000, is_last=True) == 0
    assert gate.longest_silence_ms(TEN_SECONDS[:0], 1000, is_last=True, needs_speech=True) == float("inf")


@pytest.mark.parametrize(
    ("spans", "is_last", "longest"),
    [
        ([], False, 0),
        ([(4.0, 4.5)], False, 500),
        ([(0.0, 1.25), (4.0, 4.5)], False, 1250),
        ([(4.0, 4.5), (8.0, 10.0)], False, 2000),
        ([(4.0, 4.5), (8.0, 10.0)], True, 500),
        ([(0.0, 1.25), (8.0, 10.0)], True, 1250),
        ([(0.0, 10.0)], True, 0),
        ([(0.0, 10.0)], False, 10_000),
    ],
)
def test_silences_count_inside_and_at_the_edges_but_not_at_the_end_of_the_utterance(
    spans: list[Span], is_last: bool, longest: float
) -> None:
    gate = scripted(*spans)
    assert gate.longest_silence_ms(TEN_SECONDS, 1000, is_last=is_last) == pytest.approx(longest)
