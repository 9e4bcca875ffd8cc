"""The program of a decoding process: files in by standard input, samples out by standard output, until that closes."""

from __future__ import annotations

import faulthandler
import os
import signal
from typing import BinaryIO

import numpy as np

from echo.decoding.clip import decode
from echo.decoding.limits import JobLimits
from echo.decoding.refusal import Refusal, Refused
from echo.decoding.wire import ANSWER, READY, REQUEST
from echo.types import SAMPLE_RATE


def main() -> None:
    """Serve the owner of this process; returns when it has gone."""
    faulthandler.enable()
    # The owner ends this process, by closing the pipe: a signal to its whole group must not come before that.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    with os.fdopen(os.dup(0), "rb") as source, os.fdopen(os.dup(1), "wb") as sink:
        os.dup2(2, 1)  # whatever a library prints must not get between the samples
        try:
            sink.write(READY)
            sink.flush()
            limits = JobLimits()
            while _serve(source, sink, limits):
                pass
        except OSError:  # the owner has gone in the middle
            os._exit(0)


def _serve(source: BinaryIO, sink: BinaryIO, limits: JobLimits) -> bool:
    """Answer one request; False when the owner has gone."""
    head = source.read(REQUEST.size)
    if len(head) < REQUEST.size:
        return False
    name, max_seconds, length = REQUEST.unpack(head)
    limits.begin(length, round(max_seconds * SAMPLE_RATE) * np.dtype(np.float32).itemsize)
    data = source.read(length)
    if len(data) < length:
        return False
    try:
        audio = decode(data, name.rstrip(b"\0").decode(), max_seconds)
        sink.write(ANSWER.pack(0, len(audio)))
        sink.write(audio.data.cast("B"))
    except (Refused, MemoryError) as error:
        reason = error.reason if isinstance(error, Refused) else Refusal.MEMORY
        sink.write(ANSWER.pack(reason, 0))
    sink.flush()
    limits.end()
    return True


if __name__ == "__main__":
    main()
