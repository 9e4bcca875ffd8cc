"""Reading files below one base URL, whatever its server answers: limits on address, redirects, size and time."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Self
from urllib.parse import unquote

import httpx

from echo.voices.address import is_loopback, is_public, resolve

#: Redirects that one file may take, all of them below the base.
MAX_REDIRECTS = 3
#: Addresses of a host that are tried, and seconds for each to accept a connection.
_MAX_ADDRESSES = 3
_CONNECT_S = 3.0
#: Answers that mean "no such file"; object stores say 403 where the public may not list what there is.
_MISSING = frozenset({403, 404, 410})
_PORTS = {"http": 80, "https": 443}

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""Returns the addresses of a host and port; raises OSError."""


class DownloadRefused(Exception):
    """What is there must not be used; the message is for the log."""


class DownloadFailed(Exception):
    """It is not known what is there: no connection, an answer in error; the message is for the log."""


@dataclass(frozen=True, slots=True)
class BaseUrl:
    """The address of a folder. ``local``: its host is written as this machine itself, which only tests do."""

    url: httpx.URL
    local: bool

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what an operator has written; raises ValueError saying what is wrong with it."""
        try:
            url = httpx.URL(text.rstrip("/"))
        except (httpx.InvalidURL, ValueError):
            raise ValueError("is no URL") from None
        if url.scheme not in _PORTS or not url.host or b"%" in url.raw_host:
            raise ValueError("must begin with https:// or http:// and name a host")
        if url.userinfo or url.query or url.fragment:
            raise ValueError("must have neither a user name, nor a query, nor a fragment")
        if _has_dot_segments(text):
            raise ValueError("must not hold . or .. as a part of its path")
        local = url.host == "localhost"
        try:
            address = ipaddress.ip_address(url.host)
        except ValueError:
            pass
        else:
            local = address.is_loopback
            if not local and not is_public(url.host):
                raise ValueError("is an address of a private network; voices are fetched from public ones only")
        return cls(url, local)

    def allows(self, address: str) -> bool:
        """Whether the server may connect to an address that the host's name stands for."""
        return is_loopback(address) if self.local else is_public(address)

    def below(self, name: str) -> httpx.URL:
        """Return the URL of a file whose name needs no escapes."""
        return self.url.copy_with(path=f"{self.url.path.rstrip('/')}/{name}")

    def holds(self, url: httpx.URL) -> bool:
        """Whether a URL is that of a file below this one."""
        same = (url.scheme, url.host, _port(url)) == (self.url.scheme, self.url.host, _port(self.url))
        inside = url.path.startswith(self.url.path.rstrip("/") + "/")
        return same and inside and not url.userinfo and not _has_dot_segments(str(url))


class Downloader:
    """Reads files of at most ``max_bytes`` below a base URL; belongs to one event loop.

    The host's name is resolved here, and the connection made to the very address that was checked: what the name
    stands for a moment later makes no difference (DNS rebinding). Proxies of the environment are not used. ``headers``
    returns those that every request has besides.
    """

    def __init__(
        self,
        base: BaseUrl,
        max_bytes: int,
        *,
        resolve: Resolve = resolve,
        verify: ssl.SSLContext | bool = True,
        headers: Callable[[], dict[str, str]] = dict,
    ) -> None:
        self._base = base
        self._max_bytes = max_bytes
        self._resolve = resolve
        self._headers = headers
        self._client = httpx.AsyncClient(
            verify=verify,
            trust_env=False,
            follow_redirects=False,
            timeout=httpx.Timeout(None, connect=_CONNECT_S),  # the caller limits the whole
            headers={"User-Agent": "echo-tts-server", "Accept": "audio/*, */*;q=0.1", "Accept-Encoding": "identity"},
        )

    async def get(self, name: str) -> bytes | None:
        """Return a file; None if there is none of that name. Raises DownloadRefused or DownloadFailed."""
        url = self._base.below(name)
        try:
            for _ in range(1 + MAX_REDIRECTS):
                response = await self._open(url)
                try:
                    if not response.is_redirect:
                        return await self._read(response)
                    target = url.join(response.headers["location"])
                finally:
                    await response.aclose()
                if not self._base.holds(target):
                    raise DownloadRefused("redirected to elsewhere")
                url = target
        except (httpx.InvalidURL, UnicodeError, KeyError):
            raise DownloadRefused("redirected to what is no URL") from None
        except (httpx.HTTPError, OSError) as error:
            raise DownloadFailed(f"{type(error).__name__}: {error}") from None
        raise DownloadRefused(f"redirected more than {MAX_REDIRECTS} times")

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def _open(self, url: httpx.URL) -> httpx.Response:
        """Request a URL from the first address of its host that accepts a connection."""
        host = url.raw_host.decode("ascii")
        addresses = await self._resolve(host, _port(url))
        if not all(self._base.allows(address) for address in addresses):
            raise DownloadRefused("the host has an address that is not public")
        failure: Exception = DownloadFailed("the host has no address")
        for address in addresses[:_MAX_ADDRESSES]:
            request = self._client.build_request(
                "GET",
                url.copy_with(host=address.partition("%")[0]),
                headers={**self._headers(), "Host": url.netloc.decode("ascii")},
                extensions={"sni_hostname": host},  # the certificate is that of the name
            )
            try:
                return await self._client.send(request, stream=True)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure = error
        raise failure

    async def _read(self, response: httpx.Response) -> bytes | None:
        if response.status_code in _MISSING:
            return None
        if response.status_code != 200:
            raise DownloadFailed(f"answered with status {response.status_code}")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise DownloadRefused("sent compressed, which was not asked for")
        announced = response.headers.get("content-length", "")
        data = bytearray()
        if not (announced.isdecimal() and int(announced[:18]) > self._max_bytes):
            async for piece in response.aiter_raw():
                data += piece
                if len(data) > self._max_bytes:
                    break
            else:
                return bytes(data)
        raise DownloadRefused(f"larger than {self._max_bytes} bytes")


def _port(url: httpx.URL) -> int:
    return url.port or _PORTS.get(url.scheme, 0)


def _has_dot_segments(url: str) -> bool:
    parts = unquote(unquote(url.partition("?")[0])).replace("\\", "/").split("/")
    return "." in parts or ".." in parts
