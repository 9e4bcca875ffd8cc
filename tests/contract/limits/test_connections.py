"""Connections: how many, for how long they may be silent, and that new ones still get in."""

from __future__ import annotations

import time
from contextlib import ExitStack

import httpx
import pytest

from echo.settings import load_settings
from tests.attack.raw import Raw, ask, request, speech
from tests.contract.clock import Clock
from tests.contract.serving import Gate, Serve, Served, wait_until


def opened(served: Served) -> float:
    return served.runtime.metrics.registry.get_sample_value("echo_connections") or 0.0


def refusals(served: Served, status: str) -> float:
    labels = {"status": status, "reason": "too_many_connections"}
    return served.runtime.metrics.registry.get_sample_value("echo_refusals_total", labels) or 0.0


@pytest.mark.parametrize("said", [b"", b"\r\n", b"G"])
def test_a_silent_connection_is_closed(serve: Serve, said: bytes) -> None:
    served = serve(receive_timeout_s=1)
    with Raw(served.port) as connection:
        connection.send(said)
        assert connection.closed()
    wait_until(lambda: opened(served) == 0)


def test_a_connection_is_kept_for_longer_than_clients_and_balancers_keep_theirs(serve: Serve) -> None:
    served = serve()
    with Raw(served.port) as connection:
        assert connection.ask(request()).status == 200
        time.sleep(6)  # httpx gives its connections up after five seconds
        assert connection.ask(request()).status == 200
    assert load_settings().keep_alive_s > 60  # those of nginx and of most balancers


@pytest.mark.parametrize("said", [b"", b"\r"])  # the latter once ended all patience with it
def test_a_connection_that_is_kept_alive_is_closed_after_a_while(serve: Serve, clock: Clock, said: bytes) -> None:
    served = serve(keep_alive_s=1, receive_timeout_s=1)
    with Raw(served.port) as connection:
        assert connection.ask(request()).status == 200
        connection.send(said)
        clock.run()
        assert connection.closed()


def test_a_request_that_takes_long_is_no_silence(serve: Serve, clock: Clock) -> None:
    served = serve(receive_timeout_s=1)
    served.script.block_s = 3.0
    with Raw(served.port) as connection:
        connection.send(speech(response_format="wav"))
        wait_until(lambda: served.open_requests == 1)
        clock.run()
        assert connection.answer().status == 200


def test_silent_connections_make_room_for_those_that_ask(serve: Serve) -> None:
    served = serve(max_connections=20, client_share=1)
    with ExitStack() as stack:
        silent = [stack.enter_context(Raw(served.port)) for _ in range(60)]
        for _ in range(5):
            assert ask(served.port, request()).status == 200
        assert opened(served) <= 20
        assert silent[0].closed(10)


def test_connections_that_are_being_served_are_not_ended_for_new_ones(serve: Serve) -> None:
    served = serve(max_connections=4, client_share=1)
    served.script.render = gate = Gate()
    with ExitStack() as stack:
        busy = [stack.enter_context(Raw(served.port)) for _ in range(4)]
        for connection in busy:
            connection.send(speech(response_format="pcm"))
        wait_until(lambda: served.open_requests == 4)
        refused = ask(served.port, request())
        assert (refused.status, refused.json()["error"]["code"]) == (503, "too_many_connections")
        assert int(refused.headers["retry-after"]) > 0
        gate.open()
        assert [connection.answer().status for connection in busy] == [200] * 4
    assert refusals(served, "503") == 1
    wait_until(lambda: opened(served) == 0)
    assert ask(served.port, request()).status == 200


def test_one_address_has_a_share_of_the_connections(serve: Serve) -> None:
    served = serve(max_connections=8)
    served.script.render = gate = Gate()
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(Raw(served.port)).send(speech(response_format="pcm"))
        wait_until(lambda: served.open_requests == 4)
        assert ask(served.port, request()).status == 429
        gate.open()
    assert refusals(served, "429") == 1


@pytest.mark.parametrize("trusted", ["127.0.0.1", "127.0.0.0/8", "*"])
def test_a_proxy_stands_for_many_clients(serve: Serve, trusted: str) -> None:
    served = serve(max_connections=8, trusted_proxies=(trusted,))
    served.script.render = gate = Gate()
    with ExitStack() as stack:
        for _ in range(6):
            stack.enter_context(Raw(served.port)).send(speech(response_format="pcm"))
        wait_until(lambda: served.open_requests == 6)
        assert ask(served.port, request()).status == 200
        gate.open()


# -- slots


def saturate(served: Served, count: int, stack: ExitStack, *lines: str) -> None:
    for _ in range(count):
        body = b'{"input": "Hello there.", "response_format": "pcm"}'
        stack.enter_context(Raw(served.port)).send(request("POST", "/v1/audio/speech", body, *lines))


def test_one_key_has_half_of_the_slots(serve: Serve) -> None:
    served = serve(max_concurrent=2, max_queue=4, api_keys=("one", "two"))
    served.script.render = gate = Gate()
    url = served.url + "/v1/audio/speech"
    with ExitStack() as stack:
        saturate(served, 3, stack, "Authorization: Bearer one")
        wait_until(lambda: served.open_requests == 3)
        refused = httpx.post(url, json={"input": "Hi."}, headers={"Authorization": "Bearer one"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        assert int(refused.headers["retry-after"]) > 0
        saturate(served, 3, stack, "xi-api-key: two")
        wait_until(lambda: served.open_requests == 6)
        gate.open()
    served.wait_idle()


def test_an_address_behind_a_trusted_proxy_counts_for_itself(serve: Serve) -> None:
    served = serve(max_concurrent=2, max_queue=2, trusted_proxies=("127.0.0.1",))
    served.script.render = gate = Gate()
    body = b'{"input": "Hello there.", "response_format": "pcm"}'
    with ExitStack() as stack:
        saturate(served, 2, stack, "X-Forwarded-For: 192.0.2.1")
        wait_until(lambda: served.open_requests == 2)
        again = request("POST", "/v1/audio/speech", body, "X-Forwarded-For: 192.0.2.1")
        assert ask(served.port, again).status == 429
        saturate(served, 2, stack, "X-Forwarded-For: 192.0.2.2")
        wait_until(lambda: served.open_requests == 4)
        gate.open()


def test_nobody_else_is_believed_about_an_address(serve: Serve) -> None:
    served = serve(max_concurrent=2, max_queue=2)
    served.script.render = gate = Gate()
    body = b'{"input": "Hello there.", "response_format": "pcm"}'
    with ExitStack() as stack:
        for number in range(2):
            saturate(served, 1, stack, f"X-Forwarded-For: 192.0.2.{number}")
        wait_until(lambda: served.open_requests == 2)
        assert ask(served.port, request("POST", "/v1/audio/speech", body, "X-Forwarded-For: 192.0.2.9")).status == 429
        gate.open()


def test_a_lone_client_may_have_everything_if_the_operator_says_so(serve: Serve) -> None:
    served = serve(max_concurrent=2, max_queue=0, client_share=1)
    served.script.render = gate = Gate()
    with ExitStack() as stack:
        saturate(served, 2, stack)
        wait_until(lambda: served.open_requests == 2)
        gate.open()
