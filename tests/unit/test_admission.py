import pytest

from echo.admission import Admission
from echo.errors import NotReady, Overloaded


def test_slots_are_limited_and_come_back() -> None:
    admission = Admission(concurrent=1, queue=1)
    first, second = admission.enter(), admission.enter()
    with pytest.raises(Overloaded) as refused:
        admission.enter()
    assert refused.value.retry_after_s is not None
    assert refused.value.retry_after_s >= 1
    first.release()
    third = admission.enter()
    assert admission.open == 2
    second.release()
    third.release()
    assert admission.open == 0


def test_releasing_twice_frees_one_slot() -> None:
    admission = Admission(concurrent=1, queue=1)
    admission.enter()
    ticket = admission.enter()
    ticket.release()
    ticket.release()
    assert admission.open == 1


def test_a_longer_queue_gives_a_longer_hint() -> None:
    def hint(queue: int) -> float:
        admission = Admission(concurrent=1, queue=queue)
        for _ in range(queue + 1):
            admission.enter()
        with pytest.raises(Overloaded) as refused:
            admission.enter()
        assert refused.value.retry_after_s is not None
        return refused.value.retry_after_s

    assert hint(20) > hint(2)
    assert hint(10_000) <= 60


def test_closing_refuses_new_requests_and_keeps_open_ones() -> None:
    admission = Admission(concurrent=1, queue=0)
    ticket = admission.enter()
    admission.close()
    with pytest.raises(NotReady):
        admission.enter()
    ticket.release()
    assert admission.open == 0
