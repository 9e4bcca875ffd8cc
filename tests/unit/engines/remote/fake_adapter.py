"""An adapter whose engine does what its text says; run in a child process by the tests. Not imported by them."""

import os
import signal
import sys
import time

import numpy as np
from child import Refused  # the program that runs this file

RATE = 24_000
#: One array of this many samples per word of the text.
WORD = 2_400


class Adapter:
    def load(self, settings):
        options = settings["options"]
        if fail := options.get("fail_load"):
            # Fails from the second start on where it names a file.
            if fail == "always" or os.path.exists(fail):
                print("WARNING the weights are broken")
                raise RuntimeError("no weights here")
            open(fail, "w").close()
        for percent in options.get("download", []):
            print(f"\x1b[A\rmodel.safetensors: {percent:3}%|###      | 745M/2.13G [00:10<00:20]", end="\r")
        while (go_on := options.get("load_until")) and not os.path.exists(go_on):
            time.sleep(0.01)
        self.step_s = options.get("step_s", 0)
        self.voices = 0
        return {
            "name": "fake-tts",
            "version": "1.0",
            "sample_rate": RATE,
            "license": "MIT",
            "capabilities": {
                "clone": options.get("clone", True),
                "named": True,
                "stream": "token",
                "emotion": ["emo_vector", "emo_alpha", "emo_audio_prompt"],
                "languages": ["en"],
            },
            "voices": ["low", "high"],
            "options": [
                {"name": "pitch", "type": "number", "min": 0, "max": 2, "default": 1},
                {"name": "passes", "type": "integer", "min": 1},
                {"name": "calm", "type": "boolean"},
                {"name": "style", "type": "string"},
            ],
            "limits": {
                "max_chars": 300,
                "clip_min_s": 0.5,
                "clip_max_s": 2.0,
                "concurrent": options.get("concurrent", 1),
            },
        }

    def voice(self, pcm, rate):
        if np.abs(pcm).max() > 0.99:
            raise Refused("voice_rejected", "too loud")
        self.voices += 1
        return float(np.abs(pcm).max()), rate, len(pcm), self.voices

    def speak(self, job):
        text = job.text.split()
        for word in text:
            job.step()
            time.sleep(self.step_s)
            level = 0.5
            match word.strip(".,").lower():
                case "die":
                    os.kill(os.getpid(), signal.SIGKILL)
                    time.sleep(1000)  # it may take a moment until a signal is there
                case "exit":
                    os._exit(3)
                case "hang":
                    time.sleep(1000)
                case "freeze":
                    os.kill(os.getpid(), signal.SIGSTOP)
                    time.sleep(1000)
                case "noise":
                    os.write(int(sys.argv[-1]), b"\x00\x00\x00\x05hello")
                    time.sleep(1000)
                case "half":
                    os.write(int(sys.argv[-1]), b"\x00\x00\x10\x00only the beginning of a message")
                    time.sleep(1000)
                case "huge":
                    os.write(int(sys.argv[-1]), b"\xff\xff\xff\xff\x7f\xff\xff\xff\xff\xff\xff\xff")
                    time.sleep(1000)
                case "raise":
                    raise ValueError("secret detail")
                case "memory":
                    raise MemoryError
                case "allocator":
                    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")
                case "nan":
                    level = float("nan")
                case "wrong":
                    raise Refused("bad_option", f"{text[1]}: secret detail")
                case "long":
                    raise Refused("too_long", "so long")
                case "flood":
                    for n in range(1000):
                        print(f"line {n}\r", end="")
                case "print":
                    print("WARNING from the library")
                case "environment":
                    print("ENVIRONMENT", sorted(os.environ), os.getcwd())
                case "needy":
                    if job.voice is None:
                        raise Refused("voice_missing", "no voice")
                case "voice":
                    level = job.voice[0]
                case "seed":
                    level = job.seed / 1000
                case "pitch":
                    level = job.options.get("pitch", 1) / 10
                case "options":
                    print("OPTIONS", sorted(job.options.items()))
                case "name":
                    level = {None: 0.1, "low": 0.2, "high": 0.3}.get(job.name, 0.4)
                case "emotion":
                    level = job.options.get("emo_vector", [1])[0] * job.options["emo_alpha"]
                    level *= 1 if job.emotion is None else job.emotion[0]
                case "encodings":
                    level = self.voices / 100
            yield np.full(WORD, level)
