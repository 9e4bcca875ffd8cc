"""What a batch's items and a socket's session have in common: OpenAI's fields, and a recording as the voice."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import Self

from pydantic import Field, StrictStr

from echo.audio.encode import supported_encodings
from echo.runtime import Runtime
from echo.types import SpeechRequest, VoiceRef
from echo.voices.inline import decode_base64_voice
from echo.voices.voice import ClipVoice
from routes.body import SpeechBody, flattened
from routes.errors import validated
from routes.format import resolve_output
from routes.speech import to_request


class OmniBody(SpeechBody):
    """OpenAI's fields and the engines' own. ``language``, ``ref_text``, ``task_type`` and the like change nothing."""

    input: StrictStr = Field("", description="The text to speak.")
    ref_audio: StrictStr | None = Field(
        None, description="A recording to speak like, as base64 or data: address, in place of a voice."
    )

    @classmethod
    def parse(cls, data: object) -> Self:
        """Validate decoded JSON; ``speaker`` is another name of ``voice``. Raises BadRequest naming the field."""
        fields = flattened(data)
        if fields.get("voice") is None and "speaker" in fields:
            fields = {**fields, "voice": fields["speaker"]}
        return validated(cls, fields)

    async def to_request(self, runtime: Runtime, client: str, *, whole: bool) -> SpeechRequest:
        """Return the request to speak ``input``: ``whole`` files, or a stream.

        A recording has been decoded then, so that this is done once for many requests. Raises BadRequest for a format
        that is not available, and BadRequest, TooLarge or VoiceNotFound for the voice.
        """
        sent = {"stream": not whole, "stream_format": None, "wav_streaming": False, "word_timestamps": None}
        settled = self.model_copy(update=sent)
        plan = resolve_output(
            settled,
            pcm_sample_rate=runtime.settings.pcm_sample_rate,
            wav_streaming=False,
            available=supported_encodings(),
        )
        return replace(to_request(self, plan, client), voice=await self._voice(runtime, client))

    async def _voice(self, runtime: Runtime, client: str) -> VoiceRef:
        if self.ref_audio:
            limit = runtime.settings.max_voice_bytes
            decode = partial(decode_base64_voice, param="ref_audio")
            return VoiceRef(audio=await asyncio.to_thread(decode, self.ref_audio, limit))
        found = await runtime.services.of(self.model).resolve(VoiceRef(name=self.voice), client)
        return VoiceRef(audio=found.audio) if isinstance(found, ClipVoice) else VoiceRef(name=self.voice)
