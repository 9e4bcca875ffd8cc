"""What is read out of a job's input, and what is said of one that is wrong."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echo.emotion import check_emotion
from echo.errors import BadRequest
from echo.text.worker_chunks import chunk_by_chars, chunk_by_chars_and_duration
from echo.types import Emotion, EngineInfo, SpeechOptions, VoiceRef
from worker.job import Job, Joint
from worker.schema import is_health_check, parse_job

LONG = "One sentence follows another here. " * 40


def info(family: str = "echo", emotions: frozenset[str] = frozenset()) -> EngineInfo:
    return EngineInfo(
        name="some-engine",
        preset_family=family,
        sample_rate=44_100,
        device="cpu",
        backend="none",
        license="none",
        emotions=emotions,
    )


def parse(engine: str = "echo", **data: Any) -> Job:
    return parse_job({"text": "Hello there.", **data}, engine, 4096)


def error_of(**data: Any) -> str:
    with pytest.raises(BadRequest) as refused:
        parse(**data)
    assert refused.value.param is not None
    assert refused.value.message.startswith(refused.value.param)
    return refused.value.message


# -- the Echo job


def test_an_echo_job_has_the_defaults_of_the_contract() -> None:
    job = parse()
    assert (job.chunks, job.voice, job.stream, job.warnings) == (("Hello there.",), None, False, ())
    assert job.no_voice == VoiceRef(name="none")
    assert job.joint == Joint(crossfade=100, silence=500)
    assert job.options_for(info()) == SpeechOptions(
        num_steps=40,
        cfg_scale_text=3.0,
        cfg_scale_speaker=8.0,
        cfg_min_t=0.5,
        cfg_max_t=1.0,
        sequence_length=640,
        chunking_enabled=False,
    )


def test_another_model_takes_from_its_preset_what_a_job_leaves_out() -> None:
    job = parse(parameters={"num_steps": 20})
    assert job.options_for(info("tiny")) == SpeechOptions(num_steps=20, chunking_enabled=False)
    assert job.options_for(info()).cfg_scale_speaker == 8.0


def test_a_stream_keeps_the_steps_of_its_small_first_block() -> None:
    assert parse(stream=True).options_for(info()) == SpeechOptions(chunking_enabled=False)


@pytest.mark.parametrize(
    ("name", "allowed", "refused"),
    [
        ("num_steps", [1, 100, "40"], [0, 101, 1.5, True, "many"]),
        ("cfg_scale_text", [0, 10, 2.5], [-1, 10.5, "inf"]),
        ("cfg_scale_speaker", [0, 15], [15.5]),
        ("cfg_min_t", [0, 1], [-0.1, 1.1]),
        ("cfg_max_t", [0.5, 1], [1.1]),
        ("truncation_factor", [0.8, 20], [0, -1]),
        ("rescale_k", [1.2], [0]),
        ("rescale_sigma", [3.0], [0]),
        ("speaker_kv_scale", [1, 2], [0.9, 2.1]),
        ("speaker_kv_max_layers", [0, 24], [-1, 25]),
        ("speaker_kv_min_t", [0, 1], [1.5]),
        ("sequence_length", [64, 640], [63, 641]),
        ("seed", [0, 2**63 - 1], [-1, 2**63]),
        ("max_chars_per_chunk", [0, 50, 1000], [1, 49, 1001, -1]),
        ("enable_crossfade", [True, False], ["perhaps"]),
        ("normalize_boundaries", [True, False], ["perhaps"]),
        ("target_duration_seconds", [1, 30], [0.5, 31]),
    ],
)
def test_parameters_have_the_bounds_of_the_contract(name: str, allowed: list[Any], refused: list[Any]) -> None:
    for value in [*allowed, None]:
        parse(parameters={name: value})
    for value in refused:
        assert error_of(parameters={name: value}).startswith(f"{name} must be ")


def test_errors_are_those_of_the_old_worker() -> None:
    assert error_of(parameters={"num_steps": 0}) == "num_steps must be an integer from 1 to 100."
    for text in (None, "", "  \n ", 7):
        assert error_of(text=text) == "text is required and must be a text that is not blank."
    assert error_of(text="a" * 5000) == "text must be at most 4096 characters; it has 5000."
    assert error_of(session_id="../x") == "session_id must be 1 to 128 characters out of A-Z a-z 0-9 . _ and -."
    assert error_of(session_id="a\n") == error_of(session_id="") == error_of(session_id="a" * 129)
    assert error_of(parameters=[1]) == "parameters must be an object."
    assert error_of(speaker_voice=3) == "speaker_voice must be the name of a file in the voices folder, or null."
    for seed in ({"parameters": {"seed": 2**63}}, {"seed": 2**63}):
        assert error_of(**seed) == "seed must be an integer from 0 to 9223372036854775807."
    assert error_of(parameters={"cfg_min_t": 0.9, "cfg_max_t": 0.8}) == "cfg_min_t must be at most cfg_max_t."


def test_text_is_split_by_characters_and_duration() -> None:
    assert parse(text=LONG).chunks == tuple(chunk_by_chars_and_duration(LONG, 300, 10.0))
    parameters = {"max_chars_per_chunk": 80, "target_duration_seconds": 30}
    assert parse(text=LONG, parameters=parameters).chunks == tuple(chunk_by_chars_and_duration(LONG, 80, 30.0))
    assert len(parse(text=LONG, parameters={"max_chars_per_chunk": 0}).chunks) == 1


def test_joints_can_be_switched_off() -> None:
    parameters = {"enable_crossfade": False, "normalize_boundaries": False}
    assert parse(parameters=parameters).joint == Joint()


def test_unknown_names_are_ignored_with_a_warning() -> None:
    job = parse(voice="x", parameters={"stepz": 3, "seed": 1})
    assert job.warnings == ("voice: unknown, ignored", "parameters.stepz: unknown, ignored")


def test_a_seed_and_a_session_are_drawn_where_there_are_none() -> None:
    assert len({parse().seed for _ in range(20)}) == 20
    assert len({parse().session_id for _ in range(20)}) == 20
    assert (parse(parameters={"seed": 7}).seed, parse(session_id="my-file.1").session_id) == (7, "my-file.1")


# -- the IndexTTS job


def test_an_index_job_has_the_defaults_of_its_contract() -> None:
    job = parse(engine="indextts", text=LONG)
    assert job.chunks == tuple(chunk_by_chars(LONG, 300))
    assert job.joint == Joint(pause=300)  # a pause excludes a cross-fade at the same joint
    assert (job.no_voice, job.emotion, job.stream) == (VoiceRef(), None, False)
    assert job.options_for(info()) == SpeechOptions(chunking_enabled=False)


@pytest.mark.parametrize(("name", "value"), [("max_chars_per_chunk", 50), ("enable_crossfade", False), ("seed", 7)])
def test_what_both_schemas_have_counts_where_it_stands(name: str, value: Any) -> None:
    """At the top level of an IndexTTS job, in the ``parameters`` of an Echo job."""
    job = parse(text=LONG, **{name: value})
    assert (job.no_voice, job.warnings) == (VoiceRef(), ())
    assert job.chunks == tuple(chunk_by_chars(LONG, 50 if name == "max_chars_per_chunk" else 300))
    job = parse(text=LONG, parameters={}, **{name: value})
    assert (job.no_voice, job.warnings) == (VoiceRef(name="none"), (f"{name}: unknown, ignored",))


def test_a_pause_of_nothing_leaves_the_cross_fade() -> None:
    assert parse(chunk_pause_ms=0).joint == Joint(crossfade=140)
    assert parse(chunk_pause_ms=0, enable_crossfade=False).joint == Joint()


def test_a_streamed_index_job_has_sizes_of_its_own_and_no_gaps() -> None:
    job = parse(text=LONG, stream=True, stream_max_chars_per_chunk=40, stream_crossfade_ms=20)
    assert job.chunks == tuple(chunk_by_chars(LONG, 40))
    assert job.joint == Joint(crossfade=20)
    assert parse(stream=True, crossfade_ms=90).joint == Joint(crossfade=90)
    assert parse(stream=True, crossfade_ms=90, chunk_pause_ms=100).joint == Joint(pause=100)


@pytest.mark.parametrize(
    ("name", "allowed", "refused"),
    [
        ("emo_vector", [[0.5] * 8], [[0.5] * 7, [0.5] * 9, [2.0] + [0] * 7, "sad"]),
        ("emo_alpha", [0, 1], [1.5]),
        ("use_emo_text", [True], ["perhaps"]),
        ("use_random", [False], ["perhaps"]),
        ("enable_chunking", [False], ["perhaps"]),
        ("crossfade_ms", [0, 1000], [-1, 1001]),
        ("chunk_pause_ms", [0, 2000], [2001]),
        ("output_format", ["pcm_16"], ["mp3"]),
        ("stream_max_chars_per_chunk", [20, 1000], [19, 1001]),
        ("stream_crossfade_ms", [0, 1000], [1001]),
    ],
)
def test_index_fields_have_the_bounds_of_the_contract(name: str, allowed: list[Any], refused: list[Any]) -> None:
    for value in [*allowed, None]:
        parse(**{name: value})
    for value in refused:
        assert error_of(**{name: value}).startswith(f"{name} must be ")
    assert parse_job({"text": "x", "max_chars_per_chunk": 50}, "indextts", 99).chunks == ("x",)


def test_an_emotion_is_an_error_naming_the_field_for_an_engine_without_one() -> None:
    for name, value in {
        "emo_vector": [0.1] * 8,
        "emo_audio_prompt": "sad.wav",
        "emo_alpha": 0.5,
        "use_emo_text": True,
        "emo_text": "sad",
        "use_random": True,
    }.items():
        for data in ({name: value}, {"parameters": {name: value}}):
            with pytest.raises(BadRequest, match=rf"^{name} is not supported"):
                check_emotion(info(), parse(**data).emotion)
            check_emotion(info(emotions=frozenset({name})), parse(**data).emotion)


def test_a_second_emotion_is_refused_and_named() -> None:
    asked: dict[str, Any] = {"emo_audio_prompt": "sad.wav", "emo_vector": [0.1] * 8, "use_emo_text": True}
    for name in asked:
        parse(**{name: asked[name]}, emo_alpha=0.5, use_random=True, emo_text="sad")
        both = asked | {name: None}
        first, second = (other for other in asked if other != name)
        assert error_of(**both) == f"{second} and {first} exclude each other."


def test_emotion_fields_at_their_defaults_ask_for_nothing() -> None:
    job = parse(emo_alpha=1.0, use_emo_text=False, use_random=False, emo_vector=None)
    assert job.emotion is None


def test_emotions_reach_the_job() -> None:
    vector = [0, 0, 0.7, 0, 0, 0, 0, 0.1]
    job = parse(emo_vector=vector, emo_alpha=0.6, use_random=True)
    assert job.emotion == Emotion(vector=tuple(vector), alpha=0.6, random=True)
    assert parse(emo_audio_prompt="sad.wav").emotion == Emotion(clip=VoiceRef(name="sad.wav"))


# -- any input


def test_only_the_known_action_is_taken() -> None:
    assert is_health_check({"action": "health_check"})
    assert not is_health_check({"text": "x"})
    for data in ({"action": "reboot"}, None, "text", []):
        with pytest.raises(BadRequest):
            is_health_check(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from(
    ["text", "speaker_voice", "session_id", "stream", "parameters", "emo_vector", "seed", "num_steps", "crossfade_ms"]
)


@pytest.mark.slow
@given(data=st.dictionaries(NAMES | st.text(max_size=5), JSON | st.dictionaries(NAMES, JSON, max_size=3), max_size=6))
def test_any_input_is_a_job_or_a_bad_request_that_names_its_field(data: dict[str, Any]) -> None:
    try:
        job, refused = parse_job(data, "echo", 4096), None
    except BadRequest as error:
        job, refused = None, error
    if refused is None:
        assert job
        assert job.chunks
        assert all(job.chunks)
    else:
        assert refused.param
        assert refused.message.startswith(refused.param)
