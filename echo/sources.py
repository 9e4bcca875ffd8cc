"""Names of the models that the server knows by itself."""

from __future__ import annotations

#: The released Echo-TTS weights and decoder on the Hugging Face Hub.
BASE_MODEL = "jordand/echo-tts-base"
BASE_DECODER = "jordand/fish-s1-dac-min"
#: The model inside the package, which needs neither a network nor a GPU.
TINY_MODEL = "tiny"
