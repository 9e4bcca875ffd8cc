"""Real-time factor and first block of a checkpoint on a number of cores, measured in a process of its own.

python -m train.evaluation.speed echo/assets/tiny --cores 1
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from bench.machine import load_average
from echo.engines.load import load_engine
from echo.runtime import open_voices
from echo.text import split
from echo.types import SAMPLE_RATE, TextRules, Utterance
from echo.voices.reference import load_voice
from train.evaluation.systems import Checkpoint, Voice

#: One to three seconds, five, and eight of speech.
TEXTS = (
    "Good morning, how are you?",
    "The boat crossed the river at noon, and nobody on the bridge looked up.",
    "When the rain had stopped, the children ran down to the harbour to see whether the ships had come back at last.",
)
_REPEATS = 4
_ROOT = Path(__file__).resolve().parents[2]


def measure(checkpoint: Checkpoint, cores: int, *, device: str = "cpu", timeout: float = 600) -> dict[str, Any]:
    """Run this module on a checkpoint; raises subprocess.CalledProcessError when that fails."""
    command = [sys.executable, "-m", __spec__.name, checkpoint.source, "--cores", str(cores), "--device", device]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=True, timeout=timeout)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def run(checkpoint: Checkpoint, cores: int, device: str) -> dict[str, Any]:
    """Speak every text a few times with a bundled voice. The figures are medians; decoding is included."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    torch.set_num_threads(cores)
    before = load_average()
    settings = checkpoint.settings(device, cores)
    engine = load_engine(settings, None)
    first, factors = [], []
    try:
        plan = Voice(engine, settings).plan
        bundled = open_voices(settings).default()
        voice = engine.encode_voice(load_voice(bundled).audio).result() if bundled is not None else None
        for repeat in range(_REPEATS + 1):
            for text in TEXTS:
                (chunk,) = split(text, TextRules(), engine.info.chunk_rules)
                stream = engine.speak(Utterance(text=chunk.text, plan=plan, seed=repeat, voice=voice))
                seconds = sum(len(frame.samples) for frame in stream) / SAMPLE_RATE
                if repeat:  # the first round warms up
                    first.append(stream.stats.first_frame_s)
                    factors.append(stream.stats.total_s / max(seconds, 1e-3))
    finally:
        engine.close()
    return {
        "cores": cores,
        "device": device,
        "rtf": round(statistics.median(factors), 4),
        "first_block_s": round(statistics.median(first), 4),
        "utterances": len(first),
        **before,
    }


def main() -> None:
    """Measure and print JSON."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("checkpoint")
    options.add_argument("--cores", type=int, default=1)
    options.add_argument("--device", default="cpu")
    given = options.parse_args()
    tqdm.write(json.dumps(run(Checkpoint.named(given.checkpoint), given.cores, given.device)), file=sys.stdout)


if __name__ == "__main__":
    main()
