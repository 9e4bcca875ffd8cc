import pytest

from echo.admission import Admission
from echo.errors import NotReady, Overloaded


def refusal(admission: Admission, wait_s: float) -> float:
    """Have a request refused and return what it is told to wait."""
    with pytest.raises(Overloaded) as refused:
        admission.enter(wait_s)
    assert refused.value.retry_after_s is not None
    return refused.value.retry_after_s


def test_slots_are_limited_and_come_back() -> None:
    admission = Admission(2)
    first, second = admission.enter(), admission.enter()
    assert refusal(admission, 0.0) >= 1
    first.release()
    third = admission.enter()
    assert admission.open == 2
    second.release()
    third.release()
    assert admission.open == 0


def test_releasing_twice_frees_one_slot() -> None:
    admission = Admission(2)
    admission.enter()
    ticket = admission.enter()
    ticket.release()
    ticket.release()
    assert admission.open == 1


def test_a_full_house_tells_when_a_request_would_be_served() -> None:
    admission = Admission(0)
    assert refusal(admission, 7.5) == 7.5
    assert refusal(admission, 0.01) == 1
    assert refusal(admission, 10_000) == 60


def test_a_request_that_would_wait_too_long_is_refused_until_the_queue_has_shrunk() -> None:
    admission = Admission(10, max_wait_s=30)
    admission.enter(30.0)
    assert refusal(admission, 42.0) == 12
    assert refusal(admission, 30.1) == 1
    assert admission.open == 1


def test_without_a_limit_any_wait_will_do() -> None:
    Admission(1, max_wait_s=0).enter(1e6)


def test_closing_refuses_new_requests_and_keeps_open_ones() -> None:
    admission = Admission(1)
    ticket = admission.enter()
    admission.close()
    with pytest.raises(NotReady):
        admission.enter()
    ticket.release()
    assert admission.open == 0


def test_one_client_has_its_share_and_no_more() -> None:
    admission = Admission(5, client_share=0.5)
    tickets = [admission.enter(client="one") for _ in range(3)]
    with pytest.raises(Overloaded, match="You have 3 requests open, 3 are allowed"):
        admission.enter(client="one")
    admission.enter(client="two")
    tickets[0].release()
    tickets[0].release()
    admission.enter(client="one")
    assert admission.open == 4


def test_whoever_has_no_name_is_nobodys_rival() -> None:
    admission = Admission(3, client_share=0.5)
    for _ in range(3):
        admission.enter()


def test_a_share_is_one_slot_at_least() -> None:
    Admission(1, client_share=0.1).enter(client="one")
