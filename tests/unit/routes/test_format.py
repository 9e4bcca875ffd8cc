import itertools
from typing import Any

import pytest

from echo.errors import BadRequest
from echo.types import SAMPLE_RATES, Encoding
from routes.body import SpeechBody
from routes.format import FORMATS, OutputPlan, resolve_output

ALL = frozenset(Encoding)
WITHOUT_MP3 = frozenset({Encoding.PCM, Encoding.WAV, Encoding.FLAC})


def settle(
    available: frozenset[Encoding] = ALL,
    pcm_sample_rate: int | None = None,
    wav_streaming: bool = False,
    sse: bool = False,
    **fields: Any,
) -> OutputPlan:
    body = SpeechBody(input="Hello.", stream_format="sse" if sse else None, **fields)
    return resolve_output(body, pcm_sample_rate=pcm_sample_rate, wav_streaming=wav_streaming, available=available)


@pytest.mark.parametrize(
    ("stream", "model", "encoding", "whole"),
    [
        (True, None, Encoding.PCM, False),
        (True, "tts-1", Encoding.PCM, False),
        (False, None, Encoding.MP3, True),
        (False, "tts-1", Encoding.MP3, True),
        (None, "tts-1", Encoding.MP3, False),
        (None, "any-model", Encoding.MP3, False),
        (None, "", Encoding.MP3, False),
        (None, None, Encoding.PCM, False),
    ],
)
def test_a_request_without_a_format_gets_the_default_of_its_kind_of_client(
    stream: bool | None, model: str | None, encoding: Encoding, whole: bool
) -> None:
    got = settle(stream=stream, model=model)
    assert (got.format.encoding, got.whole) == (encoding, whole)


@pytest.mark.parametrize(("stream", "model"), [(False, None), (None, "tts-1")])
def test_the_default_is_a_whole_wav_where_there_is_no_mp3_encoder(stream: bool | None, model: str | None) -> None:
    got = settle(WITHOUT_MP3, stream=stream, model=model)
    assert (got.format.encoding, got.whole) == (Encoding.WAV, True)


@pytest.mark.parametrize("encoding", [Encoding.PCM, Encoding.MP3, Encoding.OPUS, Encoding.AAC, Encoding.FLAC])
@pytest.mark.parametrize("model", [None, "tts-1"])
def test_every_format_but_wav_is_streamed_unless_refused(encoding: Encoding, model: str | None) -> None:
    whole = {
        stream: settle(response_format=encoding, stream=stream, model=model).whole for stream in (None, True, False)
    }
    assert whole == {None: False, True: False, False: True}


@pytest.mark.parametrize("stream", [None, True, False])
def test_wav_is_whole_with_true_sizes(stream: bool | None) -> None:
    got = settle(response_format="wav", stream=stream)
    assert got.whole
    assert not got.format.unsized


@pytest.mark.parametrize(("stream", "progressive"), [(None, True), (True, True), (False, False)])
def test_wav_streaming_sends_wav_progressively_unless_one_body_is_asked_for(
    stream: bool | None, progressive: bool
) -> None:
    got = settle(response_format="wav", stream=stream, wav_streaming=True)
    assert got.whole is not progressive
    assert got.format.unsized is progressive


@pytest.mark.parametrize("encoding", FORMATS)
@pytest.mark.parametrize("stream", [None, True, False])
def test_events_are_always_streamed_and_wav_in_them_has_no_sizes(encoding: Encoding, stream: bool | None) -> None:
    got = settle(response_format=encoding, stream=stream, sse=True)
    assert got.sse
    assert not got.whole
    assert got.streaming
    assert got.format.unsized is (encoding is Encoding.WAV)


@pytest.mark.parametrize("wanted", ["ogg", "MP3", "", "wav_mulaw", "pcm16"])
def test_an_unknown_format_is_refused_with_the_list_of_known_ones(wanted: str) -> None:
    with pytest.raises(BadRequest) as refused:
        settle(response_format=wanted)
    assert (refused.value.param, refused.value.code) == ("response_format", "unsupported_format")
    assert "mp3, opus, aac, flac, wav, pcm" in refused.value.message


def test_a_format_this_host_cannot_encode_is_refused_naming_what_it_can() -> None:
    with pytest.raises(BadRequest) as refused:
        settle(WITHOUT_MP3, response_format="opus")
    assert refused.value.message.endswith("flac, wav, pcm.")


@pytest.mark.parametrize(
    ("fields", "operator", "rate"),
    [
        ({"sample_rate": 16000, "model": "tts-1"}, 22050, 16000),
        ({"sample_rate": 16000}, None, 16000),
        ({"model": "tts-1"}, 22050, 22050),
        ({}, 48000, 48000),
        ({"model": "tts-1"}, None, 24000),
        ({"model": "tts-1-hd"}, None, 24000),
        ({"model": "gpt-4o-mini-tts"}, None, 24000),
        ({"model": "gpt-4o-mini-tts-2025-12-15"}, None, 24000),
        ({"model": "tts-1-pro"}, None, None),
        ({"model": "echo-tts"}, None, None),
        ({}, None, None),
    ],
)
def test_the_rate_of_pcm_follows_request_operator_and_model_in_that_order(
    fields: dict[str, Any], operator: int | None, rate: int | None
) -> None:
    assert settle(pcm_sample_rate=operator, response_format="pcm", **fields).format.sample_rate == rate


@pytest.mark.parametrize("encoding", [encoding for encoding in FORMATS if encoding is not Encoding.PCM])
def test_a_format_with_a_header_keeps_the_native_rate_unless_asked(encoding: Encoding) -> None:
    native = settle(pcm_sample_rate=8000, response_format=encoding, model="tts-1")
    asked = settle(pcm_sample_rate=8000, response_format=encoding, model="tts-1", sample_rate=22050)
    assert (native.format.sample_rate, asked.format.sample_rate) == (None, 22050)


@pytest.mark.parametrize(
    ("stream", "model", "streaming"),
    [(True, None, True), (True, "tts-1", True), (False, None, False), (None, None, True), (None, "tts-1", False)],
)
def test_a_whole_wav_is_made_in_streaming_blocks_for_clients_that_stream_by_default(
    stream: bool | None, model: str | None, streaming: bool
) -> None:
    assert settle(response_format="wav", stream=stream, model=model).streaming is streaming


def test_whatever_is_streamed_is_made_in_streaming_blocks() -> None:
    bodies = itertools.product((*FORMATS, None), (True, False, None), (None, "tts-1"), (True, False), SAMPLE_RATES)
    for response_format, stream, model, sse, rate in bodies:
        got = settle(response_format=response_format, stream=stream, model=model, sse=sse, sample_rate=rate)
        assert got.whole or got.streaming


@pytest.mark.parametrize("encoding", list(FORMATS))
def test_times_of_words_make_an_answer_whole_unless_it_is_to_be_streamed(encoding: Encoding) -> None:
    got = settle(response_format=encoding, word_timestamps=True, wav_streaming=True)
    assert got.whole
    assert not got.format.unsized
    assert not settle(response_format=encoding, word_timestamps=True, sse=True).whole


def test_a_bare_stream_has_no_place_for_times_of_words() -> None:
    with pytest.raises(BadRequest, match="stream_format 'sse'"):
        settle(response_format=Encoding.MP3, word_timestamps=True, stream=True)
    assert settle(response_format=Encoding.WAV, word_timestamps=True, stream=True).whole
