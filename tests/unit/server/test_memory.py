"""Memory that the server has freed goes back to the system."""

from __future__ import annotations

import asyncio
import ctypes
import platform
from pathlib import Path

import pytest

from server import memory


def resident() -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps what is free below what is in use")
def test_what_lies_free_below_what_is_in_use_is_given_back() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = (
        ctypes.c_void_p,
        [ctypes.c_size_t],
        [ctypes.c_void_p],
    )
    blocks = [libc.malloc(8192) for _ in range(16_000)]
    for block in blocks:
        ctypes.memset(block, 1, 8192)
    for block in blocks[:-1]:
        libc.free(block)
    full = resident()

    async def until_given() -> None:
        giving = asyncio.create_task(memory.give_back(0.01))
        async with asyncio.timeout(60):
            while full - resident() < 100e6:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.01)
        assert not giving.done()
        giving.cancel()

    try:
        asyncio.run(until_given())
    finally:
        libc.free(blocks[-1])


def test_where_the_library_cannot_it_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    asyncio.run(asyncio.wait_for(memory.give_back(0.01), 60))
