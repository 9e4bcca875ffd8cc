"""A voices folder in which files come, go and change while it is read."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path

from tests.attack.conftest import SECONDS, Target
from tests.attack.raw import ask, request, speech


def test_files_that_come_and_go(target: Target, voices_dir: Path, dice: random.Random) -> None:
    clip, made = next(voices_dir.glob("*.flac")), voices_dir / "coming.flac"
    folder, link = voices_dir / "many", voices_dir / "link.flac"
    deadline = time.monotonic() + SECONDS
    try:
        while time.monotonic() < deadline:
            match dice.randrange(5):
                case 0:
                    shutil.copy(clip, made)
                case 1:
                    made.write_bytes(clip.read_bytes()[: dice.randrange(20_000)])
                case 2:
                    made.unlink(missing_ok=True)
                case 3:
                    folder.mkdir(exist_ok=True)
                    (folder / f"{'a' * dice.randint(1, 200)}.wav").write_bytes(dice.randbytes(100))
                case 4:
                    link.unlink(missing_ok=True)
                    link.symlink_to(dice.choice([link, made, Path("/etc/passwd"), voices_dir]))
            for path in ("/v1/voices", "/voices/v1/voices", "/speakers_list"):
                assert ask(target.port, request("GET", path)).status == 200
            for name in ("coming", "many", "link"):
                answer = ask(target.port, speech(voice=name, response_format="pcm", num_steps=1))
                assert answer.status in (200, 400), (name, answer.body)
    finally:
        made.unlink(missing_ok=True)
        link.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
