import pytest

from echo.errors import Overloaded
from routes.throttle import FailedKeys


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def fail(keys: FailedKeys, times: int, address: str = "192.0.2.1") -> None:
    for _ in range(times):
        keys.failed(address)


def test_failures_are_forgiven_evenly() -> None:
    clock = Clock()
    keys = FailedKeys(6, clock)
    fail(keys, 6)
    with pytest.raises(Overloaded) as refused:
        keys.failed("192.0.2.1")
    assert refused.value.retry_after_s == pytest.approx(10)
    clock.now += 10
    fail(keys, 1)
    with pytest.raises(Overloaded):
        keys.failed("192.0.2.1")
    clock.now += 60
    fail(keys, 6)


def test_addresses_count_for_themselves() -> None:
    keys = FailedKeys(2, Clock())
    fail(keys, 2)
    fail(keys, 2, "192.0.2.2")
    assert not keys.open_to("192.0.2.1", b"key")
    assert keys.open_to("192.0.2.3", b"key")


def test_a_key_that_has_worked_goes_on_working() -> None:
    keys = FailedKeys(2, Clock())
    keys.succeeded("192.0.2.1", b"known")
    fail(keys, 2)
    assert keys.open_to("192.0.2.1", b"known")
    assert not keys.open_to("192.0.2.1", b"guessed")


def test_it_remembers_only_so_many_addresses() -> None:
    keys = FailedKeys(1, Clock())
    fail(keys, 1, "first")
    for number in range(5000):
        fail(keys, 1, f"{number}")
    assert keys.open_to("first", b"key")
    assert not keys.open_to("4999", b"key")


def test_without_a_limit_nobody_is_refused() -> None:
    keys = FailedKeys(0, Clock())
    fail(keys, 1000)
    assert keys.open_to("192.0.2.1", b"key")
