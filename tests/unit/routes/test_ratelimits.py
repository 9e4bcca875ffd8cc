"""The headers about limits."""

import pytest

from echo.quota import Limits, Quotas
from routes.ratelimits import duration, rate_limit_headers


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(0, "0ms"), (0.0201, "20ms"), (0.9999, "1s"), (1, "1s"), (1.5, "1.5s"), (59.9996, "1m0s"), (360, "6m0s")],
)
def test_times_are_written_as_openai_does(seconds: float, written: str) -> None:
    assert duration(seconds) == written


def test_every_limit_has_its_headers_and_no_other() -> None:
    now = 0.0
    quotas = Quotas(lambda: now)
    quotas.configure({"a": Limits(requests=60, characters=1000, streams=2), "b": Limits(requests=1), "c": Limits()})
    quotas.spend("a", requests=1, characters=100)
    held = quotas.open("a")
    assert rate_limit_headers(quotas, "a") == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-characters": "1000",
        "x-ratelimit-remaining-characters": "900",
        "x-ratelimit-reset-characters": "6s",
        "x-ratelimit-limit-streams": "2",
        "x-ratelimit-remaining-streams": "1",
    }
    held.release()
    assert len(rate_limit_headers(quotas, "b")) == 3
    assert rate_limit_headers(quotas, "c") == rate_limit_headers(quotas, "192.0.2.1") == {}
