"""The bodies themselves, without a server: read, or refused in words that name the field."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compat.chatterbox.schemas import SpeakBody as ChatterboxBody
from compat.chatterbox.schemas import TurnMessage
from compat.elevenlabs import schemas as elevenlabs
from compat.inworld.messages import ContextConfig, ContextUpdate, Message
from compat.inworld.schemas import CloneBody, SynthesizeBody, VoicePatch
from compat.omni.batch import BatchBody
from compat.omni.messages import SessionConfig
from compat.omni.schemas import OmniBody
from compat.twilio.messages import AgentMessage
from compat.twilio.messages import Message as TwilioMessage
from compat.wire import decode
from compat.xtts.schemas import SpeakBody
from echo.audio.encode import supported_encodings
from echo.errors import BadRequest
from routes.body import SpeechBody, parse_body
from routes.format import FORMATS, resolve_output
from routes.json import decode as decode_json
from routes.speech import to_request
from tests.contract.schemathesis.bodies import anything, encoded, raw, spoilt

WIRE = (
    SynthesizeBody,
    CloneBody,
    VoicePatch,
    Message,
    ContextConfig,
    ContextUpdate,
    SpeakBody,
    OmniBody,
    SessionConfig,
    BatchBody,
    ChatterboxBody,
    TurnMessage,
    elevenlabs.SpeakBody,
    elevenlabs.Message,
    elevenlabs.Key,
    elevenlabs.SocketQuery,
    elevenlabs.DialogueBody,
    elevenlabs.DialogueMessage,
    TwilioMessage,
    AgentMessage,
)
many = settings(max_examples=300, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
sent = raw | anything.map(encoded) | spoilt.map(encoded)


def refusal(read: Callable[[bytes], Any], data: bytes) -> BadRequest | None:
    try:
        read(data)
    except BadRequest as error:
        return error
    return None


@many
@given(data=sent)
def test_foreign_bodies(data: bytes) -> None:
    for model in WIRE:  # all in one test: to think of a body takes far longer than to read it
        error = refusal(partial(read, model), data)
        assert error is None or (error.message and "pydantic" not in error.message), model


def read(model: Any, text: bytes) -> None:
    model.parse(decode(text))


@many
@given(data=sent, rate=st.none() | st.sampled_from(["24000", "", "x", "²", "-1", "44100.0"]))
def test_openais_body(data: bytes, rate: str | None) -> None:
    error = refusal(lambda text: parse_body(decode_json(text), rate), data)
    if error is None:
        usable(parse_body(decode_json(data), rate))
    else:
        assert error.code
        assert error.param is None or error.message.startswith(error.param)
        assert "pydantic" not in error.message


def usable(body: SpeechBody) -> None:
    """Check that what was read leads to a request, or to a format that is refused by name."""
    resolve = partial(resolve_output, pcm_sample_rate=None, wav_streaming=False, available=supported_encodings())
    if body.response_format in (None, *FORMATS):
        assert to_request(body, resolve(body)).text == body.input
    else:
        with pytest.raises(BadRequest, match="response_format"):
            resolve(body)
