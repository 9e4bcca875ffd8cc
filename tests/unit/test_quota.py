"""How much a client may have spoken, with a clock that the test turns."""

import pytest

from echo.errors import Overloaded, TooLarge, Unauthorized
from echo.quota import Limits, Quotas, Standing


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def quotas(clock: Clock, **limits: int) -> Quotas:
    made = Quotas(clock)
    made.configure({"a": Limits(**limits)})
    return made


def test_a_minutes_worth_may_be_used_at_once_and_comes_back_evenly(clock: Clock) -> None:
    made = quotas(clock, requests=6)
    for _ in range(6):
        made.spend("a", requests=1)
    with pytest.raises(Overloaded) as refused:
        made.spend("a", requests=1)
    assert refused.value.code == "rate_limit_exceeded"
    assert refused.value.retry_after_s == pytest.approx(10)
    assert "6 requests per minute" in refused.value.message
    clock.now += 10
    made.spend("a", requests=1)
    with pytest.raises(Overloaded):
        made.spend("a", requests=1)
    clock.now += 3600  # no more than a minute's worth is saved
    assert made.standing("a") == {"requests": Standing(limit=6, remaining=6, reset_s=0.0)}


def test_characters_are_counted_beside_requests_and_both_or_neither(clock: Clock) -> None:
    made = quotas(clock, requests=10, characters=100)
    made.spend("a", requests=1, characters=70)
    with pytest.raises(Overloaded, match="100 characters per minute; 30 are left, 31 are needed"):
        made.spend("a", requests=1, characters=31)
    assert made.standing("a")["requests"].remaining == 9
    made.spend("a", requests=1, characters=30)
    left = made.standing("a")
    assert (left["characters"].remaining, left["requests"].remaining) == (0, 8)
    assert left["characters"].reset_s == pytest.approx(60)
    assert left["requests"].reset_s == pytest.approx(12)


def test_a_text_that_no_minute_is_enough_for_is_not_told_to_come_back(clock: Clock) -> None:
    with pytest.raises(TooLarge, match="this text has 101 characters, and this key may have 100 characters per"):
        quotas(clock, characters=100).spend("a", requests=1, characters=101)


def test_what_the_server_refuses_is_given_back(clock: Clock) -> None:
    made = quotas(clock, requests=2, characters=50)
    made.spend("a", requests=1, characters=50)
    made.refund("a", requests=1, characters=50)
    made.refund("a", requests=1, characters=50)  # never more than there may be
    left = made.standing("a")
    assert (left["requests"].remaining, left["characters"].remaining) == (2, 50)


def test_streams_are_counted_until_they_are_released(clock: Clock) -> None:
    made = quotas(clock, streams=2)
    first, _second = made.open("a"), made.open("a")
    with pytest.raises(Overloaded, match="2 streams open, 2 are allowed") as refused:
        made.open("a")
    assert refused.value.code == "too_many_streams"
    assert refused.value.retry_after_s
    assert made.standing("a") == {"streams": Standing(limit=2, remaining=0, reset_s=None)}
    first.release()
    first.release()
    made.open("a")
    with pytest.raises(Overloaded):
        made.open("a")


def test_clients_without_limits_are_not_counted_and_others_not_together(clock: Clock) -> None:
    made = Quotas(clock)
    made.configure({"a": Limits(requests=1, streams=1), "b": Limits(requests=1, streams=1), "c": Limits()})
    for client in ("a", "b", *["c"] * 5, *["nobody"] * 5, ""):
        made.spend(client, requests=1, characters=10_000)
        made.open(client)
    assert made.standing("c") == made.standing("nobody") == {}


def test_new_limits_keep_what_has_been_used(clock: Clock) -> None:
    made = quotas(clock, requests=10, streams=3)
    made.spend("a", requests=5)
    held = made.open("a")
    made.configure({"a": Limits(requests=100, characters=10, streams=1)})
    left = made.standing("a")
    assert (left["requests"].remaining, left["characters"].remaining) == (50, 10)
    with pytest.raises(Overloaded):
        made.open("a")
    made.configure({})
    held.release()  # of a client that is not known any more
    made.configure({"a": Limits(streams=1)})
    made.open("a")


def test_a_clock_that_stands_still_or_goes_back_gives_nothing(clock: Clock) -> None:
    made = quotas(clock, requests=2)
    made.spend("a", requests=2)
    clock.now -= 500
    with pytest.raises(Overloaded):
        made.spend("a", requests=1)


def test_a_key_that_is_taken_away_speaks_no_more_on_what_is_still_open(clock: Clock) -> None:
    made = quotas(clock, requests=1)
    made.configure({"b": Limits()})
    for _ in range(2):
        with pytest.raises(Unauthorized):
            made.spend("a", characters=1)
        with pytest.raises(Unauthorized):
            made.open("a")
    assert made.standing("a") == {}
    made.spend("nobody", requests=5)  # who has no key, where none is asked for
    made.configure({"a": Limits(), "b": Limits()})
    made.spend("a", requests=1)
