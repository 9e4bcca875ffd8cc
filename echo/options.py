"""The engine options a client may set, their types and ranges: the one place that knows them.

Every wire format that takes engine options (the OpenAI body, its ``extra_body``, the Inworld extension) validates with
these models, so a range is written once and shows up in the OpenAPI schema.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, model_validator

from echo.types import MAX_LATENTS, MAX_LAYERS, Emotion, SpeechOptions, VoiceRef

# A number, but not a bool or a numeric string: JSON clients that send "3" have a bug worth hearing about.
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
BlockSize = Annotated[StrictInt, Field(ge=1, le=MAX_LATENTS)]
Steps = Annotated[StrictInt, Field(ge=1, le=100)]
Truncation = Annotated[Number, Field(gt=0, le=10)]
InitScale = Annotated[Number, Field(gt=0, lt=1)]
Share = Annotated[Number, Field(ge=0, le=1)]
T = TypeVar("T")
PerBlock = Annotated[list[T], Field(min_length=1, max_length=16)]


class EngineOptions(BaseModel):
    """Sampler and chunking options; a field that is absent or null keeps the preset's value.

    Other fields may be options of another engine (``others``), which alone knows whether it has them.
    """

    model_config = ConfigDict(extra="allow")

    block_sizes: PerBlock[BlockSize] | None = Field(
        None,
        description=(
            f"Latents per block (one latent is 46.4 ms); at most {MAX_LATENTS} together, multiples of 4 advised."
        ),
    )
    num_steps: Steps | PerBlock[Steps] | None = Field(None, description="Denoising steps, one number or one per block.")
    cfg_scale_text: Annotated[Number, Field(ge=0, le=20)] | None = Field(None, description="Text guidance.")
    cfg_scale_speaker: Annotated[Number, Field(ge=0, le=20)] | None = Field(None, description="Speaker guidance.")
    cfg_min_t: Annotated[Number, Field(ge=0, le=1)] | None = Field(None, description="Guidance ends below this time.")
    cfg_max_t: Annotated[Number, Field(ge=0, le=1)] | None = Field(None, description="Guidance starts at this time.")
    truncation_factor: Truncation | PerBlock[Truncation] | None = Field(
        None, description="Scale of the noise, one number or one per block."
    )
    init_scale: InitScale | PerBlock[InitScale] | None = Field(
        None, description="Flow time that denoising starts at, one number or one per block; 0.999 as trained."
    )
    guidance_mode: Literal["independent"] | None = Field(None, description="The only mode there is.")
    early_stop_on_zero: StrictBool | None = Field(None, description="Stop after a block that ends in silence.")
    zero_eps: Annotated[Number, Field(ge=0, le=10)] | None = Field(
        None, description="Latents up to this magnitude count as silence."
    )
    zero_tail_min_frac: Annotated[Number, Field(ge=0, le=1)] | None = Field(
        None, description="Accepted; the whole tail has to be silent anyway."
    )
    zero_tail_frames: Annotated[StrictInt, Field(ge=1, le=MAX_LATENTS)] | None = Field(
        None, description="Latents at a block's end that have to be silent."
    )
    rescale_k: Annotated[Number, Field(gt=0, le=100)] | None = Field(None, description="Temporal score rescale, k.")
    rescale_sigma: Annotated[Number, Field(gt=0, le=100)] | None = Field(
        None, description="Temporal score rescale, sigma; only used together with rescale_k."
    )
    speaker_kv_scale: Annotated[Number, Field(ge=0.5, le=3)] | None = Field(
        None, description="Forces the speaker: 1.1 to 1.5, the lowest that works."
    )
    speaker_kv_min_t: Annotated[Number, Field(ge=0, le=1)] | None = Field(
        None, description="The speaker is forced down to this time."
    )
    speaker_kv_max_layers: Annotated[StrictInt, Field(ge=0, le=MAX_LAYERS)] | None = Field(
        None, description="The speaker is forced in this many layers."
    )
    sequence_length: Annotated[StrictInt, Field(ge=1, le=MAX_LATENTS)] | None = Field(
        None, description="Longest generation of one chunk, in latents."
    )
    chunking_enabled: StrictBool | None = Field(None, description="Split long text into chunks.")
    chunk_target_seconds: Annotated[Number, Field(ge=1, le=60)] | None = Field(None, description="Aim of a chunk.")
    chunk_min_seconds: Annotated[Number, Field(ge=1, le=60)] | None = Field(None, description="Shortest chunk.")
    chunk_max_seconds: Annotated[Number, Field(ge=1, le=60)] | None = Field(None, description="Longest chunk.")
    chunk_chars_per_second: Annotated[Number, Field(ge=1, le=1000)] | None = Field(
        None, description="Characters spoken per second, for the duration estimate."
    )
    chunk_words_per_second: Annotated[Number, Field(ge=0.1, le=1000)] | None = Field(
        None, description="Words spoken per second, for the duration estimate."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.block_sizes is not None and sum(self.block_sizes) > MAX_LATENTS:
            raise ValueError(f"block_sizes: the sum must be at most {MAX_LATENTS} latents")
        steps = self.num_steps
        if isinstance(steps, list) and self.block_sizes is not None and len(steps) != len(self.block_sizes):
            raise ValueError("num_steps: a list must be as long as block_sizes")
        if self.cfg_min_t is not None and self.cfg_max_t is not None and self.cfg_min_t > self.cfg_max_t:
            raise ValueError("cfg_min_t: must be at most cfg_max_t")
        low, aim, high = self.chunk_min_seconds, self.chunk_target_seconds, self.chunk_max_seconds
        if low is not None and high is not None and low > high:
            raise ValueError("chunk_min_seconds: must be at most chunk_max_seconds")
        if aim is not None and ((low is not None and aim < low) or (high is not None and aim > high)):
            raise ValueError("chunk_target_seconds: must lie between chunk_min_seconds and chunk_max_seconds")
        return self

    def others(self) -> dict[str, object]:
        """Return the fields that the server does not know."""
        return dict(self.model_extra or {})

    def options(self) -> SpeechOptions:
        """Return the options as the engine takes them, without those that are accepted and ignored."""
        values: dict[str, Any] = {}
        for field in fields(SpeechOptions):
            value = getattr(self, field.name)
            values[field.name] = tuple(value) if isinstance(value, list) else value
        return SpeechOptions(**values)


class EmotionOptions(BaseModel):
    """How the speech is to sound, for engines that list the fields as their emotions; others refuse them by name."""

    emo_audio_prompt: Annotated[StrictStr, Field(min_length=1)] | None = Field(
        None, description="A clip that has the emotion: a voice, or base64 of an audio file."
    )
    emo_vector: Annotated[list[Share], Field(min_length=8, max_length=8)] | None = Field(
        None, description="Happy, angry, sad, afraid, disgusted, melancholic, surprised, calm: a share of each."
    )
    emo_alpha: Share | None = Field(None, description="Strength of the emotion.")
    use_emo_text: StrictBool | None = Field(None, description="The emotion is read out of emo_text or what is spoken.")
    emo_text: Annotated[StrictStr, Field(max_length=4096)] | None = Field(
        None, description="A text that has the emotion."
    )
    use_random: StrictBool | None = Field(None, description="Varies the emotion of a vector.")

    def emotion(self) -> Emotion | None:
        """Return the emotion, None where no field asks for one."""
        clip, vector = self.emo_audio_prompt, self.emo_vector
        found = Emotion(
            clip=VoiceRef(name=clip) if clip is not None else None,
            vector=tuple(vector) if vector is not None else None,
            alpha=1.0 if self.emo_alpha is None else self.emo_alpha,
            from_text=bool(self.use_emo_text),
            text=self.emo_text,
            random=bool(self.use_random),
        )
        return found if found != Emotion() else None
