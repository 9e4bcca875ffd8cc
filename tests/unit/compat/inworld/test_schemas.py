"""Inworld's wire models: both spellings, lenient reading, strict values."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compat.bodies import documented
from compat.inworld.context import speak_rules
from compat.inworld.messages import Action, ContextConfig, ContextUpdate, Message, SendText
from compat.inworld.schemas import (
    AudioConfig,
    AudioEncoding,
    CloneBody,
    SynthesizeBody,
    VoicePatch,
    Wire,
    default_encoding,
)
from compat.wire import decode
from echo.errors import BadRequest
from echo.types import AudioFormat, Encoding, SpeechOptions

CAMEL: dict[str, Any] = {
    "text": "Hi",
    "voiceId": "anna",
    "modelId": "inworld-tts-2",
    "audioConfig": {"audioEncoding": "PCM", "sampleRateHertz": 24000, "bitRate": 64000, "speakingRate": 1.2},
    "timestampType": "WORD",
    "timestampTransportStrategy": "ASYNC",
    "numSteps": 5,
    "blockSizes": [32, 128],
    "seed": 7,
}


def _snake(name: str) -> str:
    return re.sub("[A-Z]", lambda letter: "_" + letter.group().lower(), name)


def test_both_spellings_mean_the_same_at_every_level() -> None:
    snake = {_snake(key): value for key, value in CAMEL.items()}
    snake["audio_config"] = {_snake(key): value for key, value in CAMEL["audioConfig"].items()}
    assert SynthesizeBody.parse(snake) == SynthesizeBody.parse(CAMEL)
    assert SynthesizeBody.parse(CAMEL).audio_config.sample_rate_hertz == 24000


def test_the_body_becomes_a_request_with_everything_that_was_set() -> None:
    body = SynthesizeBody.parse(CAMEL)
    request = body.to_request(body.text, body.audio_config.streamed(), streaming=True)
    assert request.voice.name == "anna"
    assert request.options == SpeechOptions(num_steps=5, block_sizes=(32, 128))
    assert request.seed == 7
    assert request.speed == 1.2
    assert request.format == AudioFormat(encoding=Encoding.PCM, sample_rate=24000, bit_rate=64000, unsized=True)


def test_livekit_spells_the_bit_rate_in_one_word() -> None:
    assert AudioConfig.parse({"bitrate": 64000}).bit_rate == 64000


def test_unknown_fields_and_nulls_are_as_good_as_absent() -> None:
    body = SynthesizeBody.parse(
        {
            "text": "Hi",
            "voiceId": "anna",
            "audioConfig": {"pitch": 2, "audioEncoding": None, "temperature": 1.1},
            "seed": None,
            "temperature": 99,
            "timestampType": None,
            "deliveryMode": "BALANCED",
            "language": "en-US",
        }
    )
    plain = SynthesizeBody.parse({"text": "Hi", "voiceId": "anna", "audio_config": {}})
    assert body.model_dump(include=set(SynthesizeBody.model_fields)) == plain.model_dump()
    assert set(body.others()) == {"temperature", "deliveryMode", "language"}  # an engine may know them


def test_the_default_is_mp3_at_128_kbit() -> None:
    assert AudioConfig().whole() == AudioFormat(encoding=Encoding.MP3, bit_rate=128_000)


def test_the_default_is_wav_where_there_is_no_mp3_encoder() -> None:
    assert default_encoding({Encoding.WAV, Encoding.PCM}) is AudioEncoding.LINEAR16


@pytest.mark.parametrize(
    ("name", "whole", "streamed"),
    [
        ("LINEAR16", Encoding.WAV, Encoding.WAV),
        ("WAV", Encoding.WAV, Encoding.WAV),
        ("PCM", Encoding.PCM, Encoding.PCM),
        ("mp3", Encoding.MP3, Encoding.MP3),
        ("OGG_OPUS", Encoding.OPUS, Encoding.OPUS),
        ("FLAC", Encoding.FLAC, Encoding.FLAC),
        ("MULAW", Encoding.WAV_MULAW, Encoding.MULAW),
        ("ALAW", Encoding.WAV_ALAW, Encoding.ALAW),
    ],
)
def test_every_encoding_whole_and_streamed(name: str, whole: Encoding, streamed: Encoding) -> None:
    config = AudioConfig.parse({"audioEncoding": name})
    assert config.whole().encoding is whole
    assert not config.whole().unsized
    assert config.streamed().encoding is streamed


def test_a_wav_stream_may_go_on_without_a_header() -> None:
    assert AudioConfig.parse({"audioEncoding": "LINEAR16"}).streamed(header=False).encoding is Encoding.PCM
    assert AudioConfig.parse({"audioEncoding": "MP3"}).streamed(header=False).encoding is Encoding.MP3


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"text": None}, "text"),
        ({"text": 5}, "text"),
        ({"voiceId": ""}, "voiceId"),
        ({"audioConfig": 3}, "audioConfig"),
        ({"audioConfig": {"audioEncoding": "VORBIS"}}, "audioConfig.audioEncoding"),
        ({"audio_config": {"sample_rate_hertz": 7999}, "audioConfig": None}, "audioConfig.sampleRateHertz"),
        ({"audioConfig": {"sampleRateHertz": 48001}}, "audioConfig.sampleRateHertz"),
        ({"audioConfig": {"speakingRate": 0.4}}, "audioConfig.speakingRate"),
        ({"audioConfig": {"speakingRate": 1.6}}, "audioConfig.speakingRate"),
        ({"audioConfig": {"bitRate": 0}}, "audioConfig.bitRate"),
        ({"timestampType": "PHONEME"}, "timestampType"),
        ({"numSteps": []}, "numSteps"),
        ({"blockSizes": [700]}, "blockSizes.0"),
        ({"cfgMinT": 0.9, "cfg_max_t": 0.1}, None),
        ({"seed": True}, "seed"),
    ],
)
def test_a_wrong_field_is_named_as_the_reference_spells_it(change: dict[str, Any], field: str | None) -> None:
    with pytest.raises(BadRequest) as caught:
        SynthesizeBody.parse({**CAMEL, **change})
    assert caught.value.param == field
    assert caught.value.message.startswith(field or "cfg_min_t: must be")


@pytest.mark.parametrize("data", [None, [], "text", 3, True])
def test_what_is_not_an_object_is_refused(data: object) -> None:
    with pytest.raises(BadRequest, match="must be a JSON object"):
        SynthesizeBody.parse(data)


def test_an_update_changes_what_it_names_and_nothing_else() -> None:
    old = ContextConfig.parse({"voiceId": "anna", "modelId": "m", "audioConfig": {"bitrate": 64000}, "seed": 3})
    change = ContextUpdate.parse(
        {"audio_config": {"sampleRateHertz": 16000}, "modelId": "other", "autoMode": True, "cfgScaleText": 2}
    )
    new = old.updated(change)
    assert (new.voice_id, new.model_id, new.seed, new.auto_mode) == ("anna", "m", 3, True)
    assert (new.audio_config.bit_rate, new.audio_config.sample_rate_hertz) == (64000, 16000)
    assert new.options() == SpeechOptions(cfg_scale_text=2)


def test_an_update_that_contradicts_what_was_set_is_refused() -> None:
    old = ContextConfig.parse({"voiceId": "anna", "cfgMaxT": 0.5})
    with pytest.raises(BadRequest, match="cfg_min_t"):
        old.updated(ContextUpdate.parse({"cfgMinT": 0.9}))


def test_messages_say_what_they_ask_for_in_order() -> None:
    message = Message.parse({"closeContext": {}, "send_text": {"text": "x"}, "flushContext": False, "contextId": "c"})
    assert message.actions() == [Action.TEXT, Action.CLOSE]


def test_an_unknown_message_is_refused() -> None:
    with pytest.raises(BadRequest, match="send_text"):
        Message.parse({"hello": 1, "contextId": "c"}).actions()


@pytest.mark.parametrize(("value", "flushes"), [({}, True), (True, True), (None, False), (False, False)])
def test_a_text_may_carry_its_own_flush(value: object, flushes: bool) -> None:
    assert SendText.parse({"text": "x", "flushContext": value}).flushes is flushes


def test_the_documentation_of_a_body_has_no_references_left() -> None:
    schema = documented(SynthesizeBody)["requestBody"]["content"]["application/json"]["schema"]
    assert "$ref" not in str(schema)
    assert "sampleRateHertz" in schema["properties"]["audioConfig"]["properties"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=10), children, max_size=3),
    max_leaves=8,
)
MODELS: list[type[Wire]] = [SynthesizeBody, ContextConfig, ContextUpdate, Message, SendText, CloneBody, VoicePatch]
FIELDS = st.sampled_from(
    sorted({name for model in MODELS for name in model.model_fields} | {*AudioConfig.model_fields})
)
BODIES = JSON | st.dictionaries(FIELDS, JSON | st.dictionaries(FIELDS, JSON, max_size=4), max_size=6)


def _parsed(model: type[Wire], data: object) -> Wire | None:
    try:
        return model.parse(data)
    except BadRequest:
        return None


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
@settings(max_examples=100, derandomize=True, deadline=None)
@given(data=BODIES)
def test_any_json_is_either_understood_or_refused(model: type[Wire], data: object) -> None:
    assert isinstance(_parsed(model, data), model | None)


@pytest.mark.slow
@settings(max_examples=100, derandomize=True, deadline=None)
@given(config=BODIES, change=BODIES)
def test_whatever_is_understood_can_be_used(config: object, change: object) -> None:
    old = _parsed(ContextConfig, {**config, "voiceId": "anna"} if isinstance(config, dict) else config)
    update = _parsed(ContextUpdate, change)
    if isinstance(old, ContextConfig):
        assert json.loads(json.dumps(old.echoed()))["voiceId"] == old.voice_id
        assert speak_rules(old).words_from[0] > 0
        assert old.to_request("Hi", old.audio_config.streamed(), streaming=True).voice.name == old.voice_id
        if isinstance(update, ContextUpdate):
            with contextlib.suppress(BadRequest):  # the two may contradict each other
                assert old.updated(update).model_id == old.model_id


@settings(max_examples=100, derandomize=True, deadline=None)
@given(data=st.binary(max_size=60) | st.text(max_size=60))
def test_what_is_decoded_is_json(data: bytes | str) -> None:
    try:
        decoded = decode(data)
    except BadRequest:
        return
    assert decoded == json.loads(data)


@pytest.mark.parametrize("data", [b"", b"{", b"[" * 100_000, b'"\\ud800"', b"\xff", b"NaN", '{"a":1e'])
def test_what_is_not_json_is_refused(data: bytes | str) -> None:
    with pytest.raises(BadRequest, match="not valid JSON"):
        decode(data)
