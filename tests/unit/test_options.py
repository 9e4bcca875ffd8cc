"""The options of a request, from the checked body to what the engine is told."""

from dataclasses import fields

from echo.emotion import FIELDS
from echo.options import EmotionOptions, EngineOptions
from echo.types import Emotion, SpeechOptions

#: Options that are accepted for the sake of existing clients and change nothing.
IGNORED = {"guidance_mode", "zero_tail_min_frac"}


def test_every_option_that_is_accepted_reaches_the_engine_or_is_known_to_be_ignored() -> None:
    assert {field.name for field in fields(SpeechOptions)} == set(EngineOptions.model_fields) - IGNORED


def test_an_emotion_that_asks_for_nothing_is_none() -> None:
    assert set(EmotionOptions.model_fields) == set(FIELDS.values())
    defaults = {"emo_audio_prompt": None, "emo_alpha": 1.0, "use_emo_text": False, "use_random": False}
    assert EmotionOptions.model_validate(defaults).emotion() is None
    given = EmotionOptions.model_validate({"use_emo_text": True, "emo_text": "sad", "emo_alpha": 0})
    assert given.emotion() == Emotion(from_text=True, text="sad", alpha=0.0)


def test_what_the_client_left_out_stays_open() -> None:
    assert EngineOptions.model_validate({"seed": 1, "num_steps": None}).options() == SpeechOptions()


def test_lists_become_one_immutable_value_per_block() -> None:
    body = {"block_sizes": [32, 64], "num_steps": [4, 5], "truncation_factor": [0.8, 0.9], "zero_eps": 0.1}
    assert EngineOptions.model_validate(body).options() == SpeechOptions(
        block_sizes=(32, 64), num_steps=(4, 5), truncation_factor=(0.8, 0.9), zero_eps=0.1
    )
