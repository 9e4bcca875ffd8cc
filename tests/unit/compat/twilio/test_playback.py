"""How far a line has played, and which words have been heard."""

from __future__ import annotations

import asyncio

import pytest

from compat.twilio.playback import Playback, Stalled
from compat.twilio.turn import Turn
from echo.session import PassageDone, PassageStarted


def sent(playback: Playback, *seconds: float) -> list[str]:
    """Send some audio with a mark behind each piece; return the marks."""
    marks = []
    for each in seconds:
        playback.sent(each)
        marks.append(playback.mark(1))
    return marks


def test_marks_tell_how_far_the_line_is() -> None:
    playback = Playback()
    first, second, third = sent(playback, 1.0, 2.0, 3.0)
    assert len({first, second, third}) == 3
    assert (playback.sent_s, playback.played_s) == (6.0, 0.0)
    playback.returned(first)
    assert playback.played_s == 1.0
    playback.returned(third)  # what came before has been played as well
    assert playback.played_s == 6.0
    playback.returned(second)
    assert playback.played_s == 6.0


def test_marks_of_what_was_cleared_are_ignored() -> None:
    playback = Playback()
    old = sent(playback, 1.0, 1.0)
    playback.clear()
    assert playback.played_s == playback.sent_s == 2.0
    (new,) = sent(playback, 5.0)
    for name in (*old, "never heard of"):
        playback.returned(name)
    assert playback.played_s == 2.0
    playback.returned(new)
    assert playback.played_s == 7.0


def test_what_has_no_mark_yet() -> None:
    playback = Playback()
    assert playback.unmarked_s == 0
    playback.sent(0.5)
    assert playback.unmarked_s == 0.5
    name = playback.mark(1)
    assert playback.unmarked_s == 0
    playback.returned(name)
    playback.sent(0.25)
    assert playback.unmarked_s == 0.25
    playback.clear()
    assert playback.unmarked_s == 0


async def test_there_is_room_until_the_lead_is_used_up() -> None:
    playback = Playback(lead_s=3.0)
    marks = sent(playback, 1.0, 1.0)
    await playback.room()
    marks += sent(playback, 1.0)
    waiting = asyncio.create_task(playback.room())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    playback.returned(marks[0])
    await waiting


async def test_a_line_that_returns_no_marks_has_stalled() -> None:
    playback = Playback(lead_s=1.0, stall_s=0.02)
    sent(playback, 1.0)
    with pytest.raises(Stalled):
        await playback.room()
    with pytest.raises(Stalled):
        await playback.finished()
    playback.clear()
    await playback.room()
    await playback.finished()


async def test_a_line_that_plays_much_more_slowly_than_a_telephone_has_stalled() -> None:
    now = 0.0
    playback = Playback(lead_s=10.0, stall_s=5.0, clock=lambda: now)
    marks = sent(playback, *[1.0] * 10)
    for name in marks[:3]:  # one in five seconds, none of them too late
        now += 4.9
        waiting = asyncio.create_task(playback.room())
        await asyncio.sleep(0)
        playback.returned(name)
        await waiting
        marks += sent(playback, 1.0)
    now += 0.4  # 15.1 s after the fourth was sent, when 9 s of audio were in front of it at most
    with pytest.raises(Stalled):
        await playback.room()
    playback.returned(marks[3])
    with pytest.raises(Stalled):
        await playback.finished()


async def test_all_is_heard_when_the_last_mark_is_back() -> None:
    playback = Playback()
    marks = sent(playback, 1.0, 1.0)
    waiting = asyncio.create_task(playback.finished())
    for name in marks:
        await asyncio.sleep(0)
        assert not waiting.done()
        playback.returned(name)
    await waiting


def spoken(turn: Turn, index: int, source: str, start_s: float, end_s: float) -> None:
    turn.begin(PassageStarted(index=index, source=source))
    turn.finish(
        PassageDone(
            index=index,
            source=source,
            start_s=start_s,
            end_s=end_s,
            speech_start_s=start_s,
            speech_end_s=end_s,
            flushed=False,
        )
    )


def test_the_words_that_have_been_heard() -> None:
    turn = Turn(1, session=None, begins_s=10.0)  # type: ignore[arg-type]
    spoken(turn, 0, "One two three.", 0.0, 1.4)
    spoken(turn, 1, " Four five.", 2.0, 3.1)
    assert turn.heard(9.0) == turn.heard(10.0) == ""
    assert turn.heard(10.8) == "One two"
    assert turn.heard(11.5) == "One two three."
    assert turn.heard(12.6) == "One two three. Four"
    assert turn.heard(99.0) == "One two three. Four five."


def test_a_passage_that_is_still_being_made_is_placed_by_its_usual_length() -> None:
    turn = Turn(1, session=None)  # type: ignore[arg-type]
    spoken(turn, 0, "One.", 0.0, 1.0)
    turn.begin(PassageStarted(index=1, source=" 2345678901234 and more"))
    assert turn.heard(1.5) == "One."
    assert turn.heard(2.1) == "One. 2345678901234"
