"""The emotion of a request: how its fields are called, which of them an engine takes, and what excludes what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import fields
from typing import Any

from echo.errors import BadRequest, EchoError
from echo.types import Emotion, EngineInfo

#: By the attributes of ``Emotion``: IndexTTS's names of the fields, which all clients and ``EngineInfo.emotions`` use.
FIELDS: Mapping[str, str] = {
    "clip": "emo_audio_prompt",
    "vector": "emo_vector",
    "alpha": "emo_alpha",
    "from_text": "use_emo_text",
    "text": "emo_text",
    "random": "use_random",
}
#: Those that say which emotion, and not how it is used.
_SOURCES = ("clip", "vector", "from_text")


def asked(emotion: Emotion) -> list[str]:
    """Return the names of the fields that ask for something: a default that is sent along does not."""
    return [FIELDS[each.name] for each in fields(emotion) if getattr(emotion, each.name) != each.default]


def check_one(emotion: Emotion) -> None:
    """Raise BadRequest for a second emotion, of which an engine would ignore one."""
    names = set(asked(emotion))
    if len(several := [FIELDS[source] for source in _SOURCES if FIELDS[source] in names]) > 1:
        raise BadRequest(f"{several[1]} and {several[0]} exclude each other.", param=several[1])


def check_emotion(info: EngineInfo, emotion: Emotion | None) -> None:
    """Raise BadRequest naming the first field that the engine does not take, or a second emotion."""
    if emotion is None:
        return
    for name in asked(emotion):
        if name not in info.emotions:
            raise BadRequest(f"{name} is not supported: {info.name} takes no such emotion.", param=name)
    check_one(emotion)


def named_values(emotion: Emotion | None) -> dict[str, Any]:
    """Return the values by the names of their fields, without the clip and without those that are None."""
    if emotion is None:
        return {}
    values = {name: getattr(emotion, attribute) for attribute, name in FIELDS.items() if attribute != "clip"}
    if emotion.vector is not None:
        values["emo_vector"] = list(emotion.vector)
    return {name: value for name, value in values.items() if value is not None}


@contextmanager
def about_the_clip() -> Iterator[None]:
    """Have an error that is about a voice name the field of the emotion's clip."""
    try:
        yield
    except EchoError as error:
        if error.param != "voice":
            raise
        field, about = FIELDS["clip"], copy(error)
        about.param = field
        about.message = f"{field}: " + error.message.removeprefix("voice: ").replace("'voice'", "it")
        raise about from error
