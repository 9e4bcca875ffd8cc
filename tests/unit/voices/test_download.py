"""Reading a file from a server that is not to be trusted."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from echo.voices.download import BaseUrl, Downloader, DownloadFailed, DownloadRefused
from tests.bucket import Bucket, body, clip, endless, open_bucket, redirect

CLIP = clip(0.3)
#: For ``localhost``, signed by itself, with its key.
CERTIFICATE = Path(__file__).with_name("localhost.pem")


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with open_bucket() as opened:
        yield opened


async def get(base: str, name: str = "anna.wav", max_bytes: int = 100_000, **options: Any) -> bytes | None:
    downloader = Downloader(BaseUrl.parse(base), max_bytes, **options)
    try:
        async with asyncio.timeout(60):
            return await downloader.get(name)
    finally:
        await downloader.close()


def names(*addresses: str) -> Any:
    """Return what resolves every name to these addresses."""

    async def resolve(host: str, port: int) -> Sequence[str]:
        return list(addresses)

    return resolve


async def test_a_file(bucket: Bucket) -> None:
    bucket.put("anna.wav", CLIP)
    assert await get(bucket.url) == CLIP
    assert await get(bucket.url + "/") == CLIP
    assert bucket.hosts == {f"127.0.0.1:{bucket.port}"}


@pytest.mark.parametrize("status", [403, 404, 410])
async def test_no_file(bucket: Bucket, status: int) -> None:
    bucket.answers["/voices/anna.wav"] = body(b"no", status)
    assert await get(bucket.url) is None


@pytest.mark.parametrize("status", [201, 204, 206, 400, 401, 429, 500, 503])
async def test_an_answer_in_error_says_nothing_about_the_file(bucket: Bucket, status: int) -> None:
    bucket.answers["/voices/anna.wav"] = body(b"" if status == 204 else b"oops", status)
    with pytest.raises(DownloadFailed, match=str(status)):
        await get(bucket.url)


async def test_what_is_too_large_is_not_read(bucket: Bucket) -> None:
    bucket.put("anna.wav", bytes(100_001))
    bucket.answers["/voices/bob.wav"] = endless
    bucket.answers["/voices/liar.wav"] = body(b"RIFF", Content_Length="100001")
    for name in ("anna.wav", "bob.wav", "liar.wav"):
        with pytest.raises(DownloadRefused, match="larger than 100000 bytes"):
            await get(bucket.url, name)
    bucket.put("anna.wav", bytes(100_000))
    assert await get(bucket.url) == bytes(100_000)


async def test_a_file_that_is_cut_off_is_not_taken(bucket: Bucket) -> None:
    bucket.answers["/voices/anna.wav"] = body(CLIP[:1000], Content_Length="2000")
    with pytest.raises(DownloadFailed):
        await get(bucket.url)


async def test_compressed_answers_are_refused(bucket: Bucket) -> None:
    bucket.answers["/voices/anna.wav"] = body(CLIP, Content_Encoding="gzip")
    with pytest.raises(DownloadRefused, match="compressed"):
        await get(bucket.url)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_below_the_base_is_followed(bucket: Bucket, status: int) -> None:
    bucket.put("v2/anna.wav", CLIP)
    bucket.answers["/voices/anna.wav"] = redirect("v2/anna.wav", status)
    bucket.answers["/voices/bob.wav"] = redirect(f"{bucket.url}/v2/anna.wav?version=1", status)
    bucket.answers["/voices/v2/anna.wav?version=1"] = body(CLIP)
    assert await get(bucket.url) == CLIP
    assert await get(bucket.url, "bob.wav") == CLIP


@pytest.mark.parametrize(
    "location",
    [
        "/secret",
        "/voices",
        "/voicesecret/anna.wav",
        "../secret",
        "/voices/../secret",
        "/voices/%2e%2e/secret",
        "/voices/%252e%252e/secret",
        "/voices/..%5csecret",
        "//other.example/voices/anna.wav",
        "http://other.example/voices/anna.wav",
        "http://169.254.169.254/voices/anna.wav",
        "http://localhost:{port}/voices/v2.wav",
        "http://127.0.0.1:{other}/voices/v2.wav",
        "https://127.0.0.1:{port}/voices/v2.wav",
        "http://user@127.0.0.1:{port}/voices/v2.wav",
        "ftp://127.0.0.1:{port}/voices/v2.wav",
        "file:///etc/passwd",
        "http://[fd00::1]:{port}/voices/v2.wav",
    ],
)
async def test_a_redirect_to_elsewhere_is_refused(bucket: Bucket, location: str) -> None:
    location = location.format(port=bucket.port, other=bucket.port + 1)
    bucket.answers["/voices/anna.wav"] = redirect(location)
    for path in ("/secret", "/voices", "/voicesecret/anna.wav", "/voices/v2.wav"):
        bucket.answers[path] = body(CLIP)
    with pytest.raises(DownloadRefused, match="elsewhere"):
        await get(bucket.url)
    assert bucket.asked == ["/voices/anna.wav"]


@pytest.mark.parametrize("location", ["http://[::1", "http://127.0.0.1:x/", "\x00"])
async def test_a_redirect_to_what_is_no_url_leads_nowhere(bucket: Bucket, location: str) -> None:
    bucket.answers["/voices/anna.wav"] = redirect(location)
    with pytest.raises((DownloadRefused, DownloadFailed)):
        await get(bucket.url)
    assert bucket.asked == ["/voices/anna.wav"]


async def test_redirects_come_to_an_end(bucket: Bucket) -> None:
    bucket.answers["/voices/anna.wav"] = redirect("anna.wav")
    with pytest.raises(DownloadRefused, match="more than 3 times"):
        await get(bucket.url)
    assert len(bucket.asked) == 4
    bucket.answers["/voices/anna.wav"] = body(b"", 302)
    with pytest.raises(DownloadRefused, match="no URL"):
        await get(bucket.url)


@pytest.mark.parametrize(
    "addresses",
    [("127.0.0.1",), ("10.0.0.8",), ("169.254.169.254",), ("::1",), ("8.8.8.8", "127.0.0.1"), ("fe80::1%1",)],
)
async def test_a_name_that_stands_for_a_private_address_is_refused(bucket: Bucket, addresses: Sequence[str]) -> None:
    bucket.put("anna.wav", CLIP)
    with pytest.raises(DownloadRefused, match="not public"):
        await get(f"http://voices.example:{bucket.port}/voices", resolve=names(*addresses))
    assert bucket.asked == []


async def test_the_connection_is_made_to_the_address_that_was_checked() -> None:
    """Nobody looks the name up again: what it stands for a moment later makes no difference."""
    with open_bucket("127.0.0.9") as bucket:
        bucket.put("anna.wav", CLIP)
        base = f"http://localhost:{bucket.port}/voices"
        assert await get(base, resolve=names("127.0.0.9")) == CLIP
        assert bucket.hosts == {f"localhost:{bucket.port}"}  # and the server still hears the name


async def test_a_host_of_ones_own_may_not_lead_elsewhere() -> None:
    with pytest.raises(DownloadRefused):
        await get("http://localhost:9/voices", resolve=names("8.8.8.8"))


async def test_the_next_address_is_tried_where_nobody_listens(bucket: Bucket) -> None:
    bucket.put("anna.wav", CLIP)
    base = f"http://localhost:{bucket.port}/voices"
    assert await get(base, resolve=names("127.0.0.77", "127.0.0.1")) == CLIP
    with pytest.raises(DownloadFailed):
        await get(base, resolve=names("127.0.0.77"))
    with pytest.raises(DownloadFailed, match="no address"):
        await get(base, resolve=names())


async def test_a_name_that_does_not_exist() -> None:
    async def nowhere(host: str, port: int) -> list[str]:
        raise OSError("Name or service not known")

    with pytest.raises(DownloadFailed):
        await get("http://voices.example/", resolve=nowhere)


async def test_proxies_of_the_environment_are_not_used(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.put("anna.wav", CLIP)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert await get(bucket.url) == CLIP


async def test_a_certificate_must_be_that_of_the_name() -> None:
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(CERTIFICATE)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + CLIP)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=serving)
    port = server.sockets[0].getsockname()[1]
    trusting = ssl.create_default_context(cafile=str(CERTIFICATE))
    async with server:
        local = names("127.0.0.1")
        assert await get(f"https://localhost:{port}/", resolve=local, verify=trusting) == CLIP
        with pytest.raises(DownloadFailed):
            await get(f"https://127.0.0.1:{port}/", resolve=local, verify=trusting)
        with pytest.raises(DownloadFailed):
            await get(f"https://localhost:{port}/", resolve=local)


@pytest.mark.parametrize(
    "text",
    [
        *("voices", "ftp://example.com/", "https://", "https:///voices", "http://[::1", "file:///etc"),
        *("https://user:password@example.com/", "https://example.com/?token=1", "https://example.com/#part"),
        *("https://example.com/../x", "https://example.com/%2e%2e/x", "http://10.0.0.1/", "http://[fd00::1]/"),
        *("http://169.254.169.254/", "http://[::ffff:10.0.0.1]/", "http://0.0.0.0/", "https://exa mple.com/"),
    ],
)
def test_a_base_that_cannot_be_one(text: str) -> None:
    with pytest.raises(ValueError, match=r"must|is "):
        BaseUrl.parse(text)


@pytest.mark.parametrize(
    ("text", "file"),
    [
        ("https://example.com", "https://example.com/a.wav"),
        ("https://example.com/", "https://example.com/a.wav"),
        ("https://example.com:8443/my%20voices/", "https://example.com:8443/my%20voices/a.wav"),
        ("https://bücher.example/x", "https://xn--bcher-kva.example/x/a.wav"),
        ("http://8.8.8.8/x", "http://8.8.8.8/x/a.wav"),
        ("http://[::1]:9000/x", "http://[::1]:9000/x/a.wav"),
    ],
)
def test_files_lie_below_the_base(text: str, file: str) -> None:
    base = BaseUrl.parse(text)
    assert str(base.below("a.wav")) == file
    assert base.holds(base.below("a.wav"))
