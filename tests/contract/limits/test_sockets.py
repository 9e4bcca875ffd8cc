"""Open sockets of one client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http import HTTPStatus

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.contract.inworld.calls import SOCKET_PATH, Socket
from tests.contract.serving import PATIENCE_S, Serve, Served, wait_until


def opened(served: Served, key: str | None = None) -> ClientConnection:
    headers = {"xi-api-key": key} if key else {}
    return connect(served.ws_url + SOCKET_PATH, additional_headers=headers, open_timeout=PATIENCE_S)


@contextmanager
def refusal() -> Iterator[None]:
    with pytest.raises(InvalidStatus) as refused:
        yield
    assert refused.value.response.status_code == HTTPStatus.TOO_MANY_REQUESTS
    assert int(refused.value.response.headers["Retry-After"]) > 0
    assert b"sockets" in (refused.value.response.body or b"")


def refusals(served: Served) -> float:
    labels = {"status": "429", "reason": "too_many_sockets"}
    return served.runtime.metrics.registry.get_sample_value("echo_refusals_total", labels) or 0.0


def test_a_client_has_so_many_sockets_and_no_more(serve: Serve) -> None:
    served = serve(sockets_per_client=2)
    with ExitStack() as stack:
        first, second = (stack.enter_context(opened(served)) for _ in range(2))
        for _ in range(2):
            with refusal():
                opened(served)
        assert Socket(second).is_alive()
        first.close()
        served.wait_idle()

        def let_in() -> bool:
            try:
                stack.enter_context(opened(served))
            except InvalidStatus:
                return False
            return True

        wait_until(let_in)
        assert refusals(served) >= 2


def test_every_key_counts_for_itself(serve: Serve) -> None:
    served = serve(sockets_per_client=1, api_keys=("one", "two"))
    with opened(served, "one"), opened(served, "two"), refusal():
        opened(served, "one")


def test_any_number_may_be_allowed(serve: Serve) -> None:
    served = serve(sockets_per_client=0)
    with ExitStack() as stack:
        assert all(Socket(stack.enter_context(opened(served))).is_alive() for _ in range(70))
