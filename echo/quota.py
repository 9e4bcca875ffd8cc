"""How much one client may have spoken: parallel streams, and requests and characters per minute."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from echo.errors import EchoError, Overloaded, TooLarge, Unauthorized

#: Limits are per minute.
_MINUTE_S = 60.0
#: What a bucket may be short of by rounding.
_ROUNDING = 1e-6
#: Seconds after which a client may try again while all its streams are open: nobody knows when one ends.
_STREAMS_RETRY_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one client may do; None = as much as it likes."""

    #: Requests that are spoken at the same time.
    streams: int | None = None
    #: Texts that are begun in a minute: requests over HTTP, turns on sockets, items of a batch.
    requests: int | None = None
    #: Characters of these texts.
    characters: int | None = None


class Bucket:
    """A token bucket: up to ``limit`` at once, filled again evenly within a minute.

    What an earlier bucket has left is carried over as a share, so that a new limit neither fills nor empties it.
    """

    def __init__(self, limit: int, clock: Callable[[], float], share: float = 1.0) -> None:
        self.limit = limit
        self._clock = clock
        self._level = limit * share
        self._at = clock()

    @property
    def level(self) -> float:
        """How much may be taken now."""
        now = self._clock()
        self._level = min(self.limit, self._level + max(0.0, now - self._at) * self.limit / _MINUTE_S)
        self._at = now
        return self._level

    def wait_s(self, count: float) -> float:
        """Seconds until ``count`` may be taken; those until it is full, where ``count`` is more than it holds."""
        return max(0.0, min(count, self.limit) - self.level) * _MINUTE_S / self.limit

    def take(self, count: float) -> None:
        """Take ``count``; a negative number gives back."""
        self._level = min(self.limit, self.level - count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What is left of one limit."""

    limit: int
    remaining: int
    #: Seconds until all of it is there again; None where that depends on when streams end.
    reset_s: float | None


@dataclass(slots=True)
class _Account:
    limits: Limits
    requests: Bucket | None
    characters: Bucket | None
    streams: int = 0


class Quotas:
    """The limits of clients, and what they have used of them. Thread-safe; clients without limits are not counted."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._accounts: dict[str, _Account] = {}
        #: Clients that are none any more; what they have open may still ask for something.
        self._gone: set[str] = set()
        self._lock = threading.Lock()

    def configure(self, limits: Mapping[str, Limits]) -> None:
        """Set the limits of all clients, by their names; what those have used that stay is kept.

        Who was among them, and is not any more, may do nothing.
        """
        with self._lock:
            self._gone = (self._gone | self._accounts.keys()) - limits.keys()
            self._accounts = {
                client: self._account(self._accounts.get(client), each) for client, each in limits.items()
            }

    def _account(self, old: _Account | None, limits: Limits) -> _Account:
        return _Account(
            limits=limits,
            requests=self._bucket(old.requests if old else None, limits.requests),
            characters=self._bucket(old.characters if old else None, limits.characters),
            streams=old.streams if old else 0,
        )

    def _bucket(self, old: Bucket | None, limit: int | None) -> Bucket | None:
        if limit is None:
            return None
        return Bucket(limit, self._clock, old.level / old.limit if old is not None else 1.0)

    def spend(self, client: str, *, requests: int = 0, characters: int = 0) -> None:
        """Count texts, and characters of them.

        Raises Overloaded, and counts nothing, where a limit is exceeded; TooLarge where a minute's worth will never be
        enough; Unauthorized for a client that is none any more.
        """
        with self._lock:
            if (account := self._account_of(client)) is None:
                return
            asked = (("requests", account.requests, requests), ("characters", account.characters, characters))
            for what, bucket, count in asked:
                if bucket is not None and count > bucket.level + _ROUNDING:
                    raise _exceeded(what, bucket, count)
            for _, bucket, count in asked:
                if bucket is not None:
                    bucket.take(count)

    def refund(self, client: str, *, requests: int = 0, characters: int = 0) -> None:
        """Take back what was counted for a text that the server has refused."""
        with self._lock:
            account = self._accounts.get(client)
            if account is not None and account.requests is not None:
                account.requests.take(-requests)
            if account is not None and account.characters is not None:
                account.characters.take(-characters)

    def open(self, client: str) -> Stream:
        """Count a stream; raises Overloaded while there are as many as may be, and Unauthorized as ``spend`` does."""
        with self._lock:
            account = self._account_of(client)
            if account is None:
                return Stream(self, None)
            allowed = account.limits.streams
            if allowed is not None and account.streams >= allowed:
                raise Overloaded(
                    f"Rate limit: this key has {account.streams} streams open, {allowed} are allowed (streams).",
                    code="too_many_streams",
                    retry_after_s=_STREAMS_RETRY_S,
                )
            account.streams += 1
        return Stream(self, client)

    def standing(self, client: str) -> dict[str, Standing]:
        """Return what is left of each limit that a client has, by ``requests``, ``characters`` and ``streams``."""
        with self._lock:
            if (account := self._accounts.get(client)) is None:
                return {}
            found = {}
            for what, bucket in (("requests", account.requests), ("characters", account.characters)):
                if bucket is not None:
                    found[what] = Standing(
                        limit=bucket.limit, remaining=int(bucket.level), reset_s=bucket.wait_s(bucket.limit)
                    )
            if (streams := account.limits.streams) is not None:
                found["streams"] = Standing(limit=streams, remaining=max(0, streams - account.streams), reset_s=None)
            return found

    def _account_of(self, client: str) -> _Account | None:
        if client in self._gone:
            raise Unauthorized("This API key is no longer valid.")
        return self._accounts.get(client)

    def _closed(self, client: str) -> None:
        with self._lock:
            if (account := self._accounts.get(client)) is not None:
                account.streams = max(0, account.streams - 1)


@dataclass(slots=True)
class Stream:
    """A stream that is counted until it is released, which may be done any number of times."""

    _quotas: Quotas
    _client: str | None = field(default=None)

    def release(self) -> None:
        """Count it no longer."""
        client, self._client = self._client, None
        if client is not None:
            self._quotas._closed(client)


def _exceeded(what: str, bucket: Bucket, count: int) -> EchoError:
    if count > bucket.limit:
        return TooLarge(
            f"Rate limit: this text has {count} {what}, and this key may have {bucket.limit} {what} per minute."
        )
    message = (
        f"Rate limit: this key may have {bucket.limit} {what} per minute; {int(bucket.level)} are left, "
        f"{count} are needed."
    )
    return Overloaded(message, code="rate_limit_exceeded", retry_after_s=bucket.wait_s(count))
