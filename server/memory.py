"""Memory that is free and still the process's."""

from __future__ import annotations

import asyncio
import ctypes
import sys

#: Seconds between two times; each takes some milliseconds of a thread.
EVERY_S = 60.0


async def give_back(every_s: float = EVERY_S) -> None:
    """Give free memory back to the system now and then, until cancelled; ends at once where that cannot be done.

    glibc itself gives back only what lies above everything in use. Many requests at a time leave holes everywhere, so
    the process would keep for good what its busiest moment took.
    """
    if sys.platform == "win32" or (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is None:
        return
    while True:
        await asyncio.sleep(every_s)
        await asyncio.to_thread(trim, 0)
