"""Adapter of Chatterbox and Chatterbox-Turbo by the package videopython-chatterbox 0.1.7: tokens, chunk by chunk.

``model`` is a folder with the released files or a name on the hub; unset: the variant's release. ``options``:
``variant`` (english or turbo), ``watermark`` (true unless switched off), ``preload`` (a Python file that runs before
the package is loaded), and other defaults for the options of a request, which ``OPTIONS`` lists.

The package speaks whole texts only, and not at all without guidance. So its parts are called from here: tokens are
sampled one by one, and decoded as they come.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import runpy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from child import Job, Refused, checked

RATE = 24_000
#: Hub name and files of each variant's release.
RELEASES = {"english": "ResembleAI/chatterbox", "turbo": "ResembleAI/chatterbox-turbo"}
FILES = {
    "english": ["ve.safetensors", "t3_cfg.safetensors", "s3gen.safetensors", "tokenizer.json", "conds.pt"],
    "turbo": ["ve.safetensors", "t3_turbo_v1.safetensors", "s3gen_meanflow.safetensors", "*.json", "*.txt", "conds.pt"],
}
#: The package stops after so many speech tokens, which are 40 s.
MAX_TOKENS = 1000
#: Ids from here on are no speech: start, stop and unused ones.
SPEECH_IDS = 6561
#: One token is 40 ms: two frames of the mel spectrogram, of 480 samples each.
FRAMES, SAMPLES = 2, 480
#: The decoder looks so many tokens ahead (its ``pre_lookahead_len``): they wait for the chunk in which more are known.
LOOK_AHEAD = 3
#: Tokens before a chunk that are decoded with it, as in the package chatterbox-streaming.
CONTEXT = 50
#: Frames in which the audio of a chunk is faded into that of the next; the decoder's family, CosyVoice, has 8 too.
OVERLAP = 8
#: Of what the server may send as one text.
MAX_CHARS = 300
#: Turbo refuses a clip of 5 s or less, English speech is imitated from less; longer clips only cost time.
CLIP_MIN_S = {"english": 1.0, "turbo": 5.1}
CLIP_MAX_S = 60.0


def _number(name: str, least: float, most: float, default: float) -> dict[str, Any]:
    return {"name": name, "type": "number", "min": least, "max": most, "default": default}


def _integer(name: str, least: int, most: int, default: int | None) -> dict[str, Any]:
    return {"name": name, "type": "integer", "min": least, "max": most, "default": default}


_COMMON = [
    _number("temperature", 0.05, 5, 0.8),
    _number("repetition_penalty", 1, 2, 1.2),
    # Tokens. A first chunk of fewer than 5 would not be longer than its overlap with the next.
    _integer("chunk_size", 5, 100, 24),
    _integer("first_chunk_size", 5, 100, None),  # as chunk_size
    _integer("continuation_chunk_size", 5, 100, None),  # as chunk_size
]
#: Of a request, by variant. The defaults are the package's, but for those of the chunks, which it has not.
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "english": [
        _number("exaggeration", 0, 2, 0.5),
        _number("cfg_weight", 0, 1, 0.5),
        _number("min_p", 0, 1, 0.05),
        _number("top_p", 0, 1, 1.0),
        _integer("s3gen_steps", 1, 20, 10),
        *_COMMON,
    ],
    "turbo": [
        _number("top_p", 0, 1, 0.95),
        _integer("top_k", 0, 1000, 1000),
        _integer("s3gen_steps", 1, 20, 2),
        *_COMMON,
    ],
}


#: Returns audio with a watermark, or as it is.
Mark = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Voice:
    """An encoded clip: what the token model hears, and what the decoder does."""

    speaker: torch.Tensor
    prompt: torch.Tensor
    reference: dict[str, Any]

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        tensors = [self.speaker, self.prompt, *self.reference.values()]
        return sum(tensor.nbytes for tensor in tensors if torch.is_tensor(tensor))


class Adapter:
    """Samples the speech tokens of a text, and decodes them chunk by chunk."""

    def load(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Load the variant, and encode a clip, which compiles code for tens of seconds the first time."""
        table = dict(settings["options"])
        variant = table.pop("variant", "english")
        if variant not in OPTIONS:
            raise ValueError(f"options: variant must be english or turbo, not {variant!r}")
        self._marked = table.pop("watermark", True)
        if not isinstance(self._marked, bool):
            raise ValueError("options: watermark must be true or false")
        if settings["dtype"] not in ("", "float32"):
            raise ValueError("dtype: Chatterbox computes in float32")
        if preload := table.pop("preload", ""):
            runpy.run_path(preload)
        options = [
            {**option, "default": value}
            for option, value in zip(OPTIONS[variant], checked(OPTIONS[variant], table).values(), strict=True)
        ]
        self.options = options
        self.package = _load(variant, settings["model"], settings["device"])
        self._default = _voice(self.package.conds) if self.package.conds is not None else None
        self.voice(np.random.default_rng(0).normal(0, 0.1, 6 * RATE).astype(np.float32), RATE)
        distribution = packages_distributions()["chatterbox"][0]
        return {
            "name": "chatterbox" if variant == "english" else "chatterbox-turbo",
            "version": version(distribution),
            "sample_rate": RATE,
            "device": str(self.package.device),
            "license": "MIT",
            "capabilities": {"clone": True, "named": False, "stream": "token", "languages": ["en"]},
            "limits": {
                "max_chars": MAX_CHARS,
                "max_s": MAX_TOKENS * FRAMES * SAMPLES / RATE,
                "clip_min_s": CLIP_MIN_S[variant],
                "clip_max_s": CLIP_MAX_S,
                "concurrent": 1,
            },
            "options": options,
        }

    @torch.inference_mode()
    def voice(self, pcm: np.ndarray, rate: int) -> Voice:
        """Encode a clip."""
        import soundfile

        how = {}
        if self.package.t3.is_gpt:
            # Not by the package, which with numpy 2 makes float64 of it and then fails.
            pcm, how = np.asarray(self.package.norm_loudness(pcm, rate), np.float32), {"norm_loudness": False}
        file = io.BytesIO()
        soundfile.write(file, pcm, rate, format="WAV", subtype="FLOAT")
        file.seek(0)
        self.package.prepare_conditionals(file, **how)
        return _voice(self.package.conds)

    def speak(self, job: Job) -> Iterator[np.ndarray]:
        """Speak a text."""
        values = checked(self.options, job.options)
        voice = job.voice or self._default
        if voice is None:
            raise Refused("voice_missing", "these weights come without a voice, so each request needs a clip")
        if not job.text.strip():
            raise Refused("failed", "the text is blank")
        tts = self.package
        generator = torch.Generator(tts.device).manual_seed(job.seed % 2**63)
        decoder = _Decoder(tts.s3gen, voice.reference, values["s3gen_steps"], generator, self._mark)
        tokens: list[int] = []
        ends = itertools.count(
            values["first_chunk_size"] or values["chunk_size"],
            values["continuation_chunk_size"] or values["chunk_size"],
        )
        end = next(ends)
        for token in self.tokens(job, voice, values, generator):
            if token < SPEECH_IDS:
                tokens.append(token)
                if len(tokens) == end + LOOK_AHEAD:
                    yield decoder.decode(tokens)
                    end = next(ends)
        if not tokens:
            raise Refused("failed", "the model has ended before the first token of speech")
        job.tokens, job.last = len(tokens), True
        yield decoder.decode([*tokens, *_ending(tts)], final=True)

    @torch.inference_mode()
    def tokens(self, job: Job, voice: Voice, values: Mapping[str, Any], generator: torch.Generator) -> Iterator[int]:
        """Sample tokens until the model says that speech ends."""
        t3, guidance = self.package.t3, values.get("cfg_weight", 0)
        embeddings = _prompt(self.package, voice, job.text, values.get("exaggeration", 0), guidance)
        seen = torch.zeros(t3.hp.speech_tokens_dict_size, dtype=torch.bool, device=embeddings.device)
        seen[t3.hp.start_speech_token] = True
        cache = None
        for number in range(1, MAX_TOKENS + 1):
            job.step()
            output = t3.tfmr(inputs_embeds=embeddings, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            logits = t3.speech_head(output.last_hidden_state[:, -1])
            if guidance:
                logits = logits[:1] + guidance * (logits[:1] - logits[1:])
            probabilities = weigh(logits[0], seen, values, penalty_last=t3.is_gpt)
            chosen = torch.multinomial(probabilities, 1, generator=generator)
            token = int(chosen)
            if token == t3.hp.stop_speech_token:
                return
            yield token
            seen[token] = True
            embeddings = t3.speech_emb(chosen[None])
            if t3.speech_pos_emb is not None:
                embeddings = embeddings + t3.speech_pos_emb.get_fixed_embedding(number)
            if guidance:
                embeddings = embeddings.expand(2, -1, -1)
        job.truncated = True

    def _mark(self, samples: np.ndarray) -> np.ndarray:
        """Watermark audio of whole tokens: the watermark would cut off less than 240 samples, and fails under 770."""
        if not self._marked:
            return samples
        return np.asarray(self.package.watermarker.apply_watermark(samples, sample_rate=RATE), np.float32)


class _Decoder:
    """The speech tokens of one text to audio."""

    def __init__(
        self, s3gen: Any, reference: dict[str, Any], steps: int, generator: torch.Generator, mark: Mark
    ) -> None:
        self._s3gen, self._reference, self._steps, self._mark = s3gen, reference, steps, mark
        self._seed = generator.initial_seed()
        self._prompt = FRAMES * reference["prompt_token"].shape[1]
        # All of it now: what is decoded twice, as context, is made of the same noise.
        frames = self._prompt + FRAMES * (MAX_TOKENS + LOOK_AHEAD)
        self._noise = torch.randn(1, 80, frames, generator=generator, device=generator.device)
        rise, fall = np.split(np.hamming(2 * OVERLAP * SAMPLES).astype(np.float32), 2)
        self._rise = rise / (rise + fall)
        #: Of the last chunk's end, which the next repeats: mel frames, the vocoder's source signal and audio.
        self._last: tuple[torch.Tensor, torch.Tensor, np.ndarray] | None = None
        self._decoded = 0

    @torch.inference_mode()
    def decode(self, tokens: list[int], *, final: bool = False) -> np.ndarray:
        """Return the audio of the new tokens; its end is left for the next call, unless this is the ``final`` one."""
        begin = max(0, self._decoded - CONTEXT)
        end = len(tokens) - (0 if final else LOOK_AHEAD)
        noise = self._noise[..., self._prompt + FRAMES * begin : self._prompt + FRAMES * len(tokens)]
        with _silenced():
            mel = self._s3gen(
                torch.tensor([tokens[begin:]], device=self._noise.device),
                None,
                None,
                ref_dict=self._reference,
                finalize=True,  # without it the package's mask is too long
                n_cfm_timesteps=self._steps,
                noised_mels=torch.cat([self._noise[..., : self._prompt], noise], dim=-1),
                skip_vocoder=True,
            )
        audio = self._vocode(mel[..., FRAMES * (self._decoded - begin) : FRAMES * (end - begin)])
        self._decoded = end
        return audio if final else audio[: -OVERLAP * SAMPLES]

    def _vocode(self, mel: torch.Tensor) -> np.ndarray:
        """Return the audio of mel frames, [samples], faded into what it follows."""
        torch.manual_seed((self._seed + self._decoded) % 2**63)  # the source signal has noise, which takes no generator
        length = OVERLAP * SAMPLES
        if self._last is None:
            audio, source = self._s3gen.hift_inference(mel)
            fade = self._s3gen.trim_fade  # against what is left of the clip at the beginning, as in the package
            audio[:, : len(fade)] *= fade
            samples = self._mark(audio[0].cpu().numpy())
        else:
            frames, source, tail = self._last
            mel = torch.cat([frames, mel], dim=-1)
            audio, source = self._s3gen.hift_inference(mel, source)
            # Marked before it is faded: two watermarks that met abruptly would click.
            samples = self._mark(audio[0].cpu().numpy())
            samples[:length] = tail + self._rise * (samples[:length] - tail)
        self._last = (mel[..., -OVERLAP:], source[..., -length:], samples[-length:].copy())
        return samples


def weigh(
    logits: torch.Tensor, seen: torch.Tensor, values: Mapping[str, Any], *, penalty_last: bool = False
) -> torch.Tensor:
    """Return the probabilities of the next token, [ids], by the options of sampling that ``values`` has.

    seen          boolean, [ids]: the tokens that the repetition penalty is for
    penalty_last  after the others, as Turbo was made for, instead of before them
    """

    def penalise(logits: torch.Tensor) -> torch.Tensor:
        penalty = values["repetition_penalty"]
        return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)

    logits = logits.float()
    if not penalty_last:
        logits = penalise(logits)
    logits = logits / values["temperature"]
    if 0 < (count := values.get("top_k", 0)) < len(logits):
        logits = logits.masked_fill(logits < logits.topk(count).values[-1], -torch.inf)
    if least := values.get("min_p", 0):
        probabilities = logits.softmax(-1)
        logits = logits.masked_fill(probabilities < least * probabilities.max(), -torch.inf)
    if values["top_p"] < 1:
        probabilities, order = logits.softmax(-1).sort(descending=True)
        # Those that are preceded by less than top_p; the likeliest always.
        dropped = probabilities.cumsum(-1) - probabilities >= values["top_p"]
        dropped[0] = False
        logits = logits.masked_fill(torch.zeros_like(dropped).scatter(0, order, dropped), -torch.inf)
    if penalty_last:
        logits = penalise(logits)
    return logits.softmax(-1)


def _load(variant: str, model: str, device: str) -> Any:
    """Return the package's model; raises FileNotFoundError for a folder that does not exist."""
    import perth
    from huggingface_hub import snapshot_download

    if perth.PerthImplicitWatermarker is None:
        raise ImportError("the watermark of resemble-perth needs setuptools below version 81 in this environment")
    if os.path.isabs(model) and not os.path.isdir(model):
        raise FileNotFoundError(f"model: there is no folder {model}")
    if variant == "english":
        from chatterbox.tts import ChatterboxTTS as Model
    else:
        from chatterbox.tts_turbo import ChatterboxTurboTTS as Model
    if os.path.isdir(model):
        folder = Path(model)
    else:
        folder = Path(snapshot_download(model or RELEASES[variant], allow_patterns=FILES[variant]))
    return Model.from_local(folder, device)


def _voice(conditionals: Any) -> Voice:
    """Return what the package has made of a clip."""
    reference = dict(conditionals.gen)
    # A clip that does not end with a token has a frame more, which would be missing in the speech.
    reference["prompt_feat"] = reference["prompt_feat"][:, : FRAMES * reference["prompt_token"].shape[1]]
    return Voice(conditionals.t3.speaker_emb, conditionals.t3.cond_prompt_speech_tokens, reference)


def _prompt(tts: Any, voice: Voice, text: str, exaggeration: float, guidance: float) -> torch.Tensor:
    """Return what the first token follows, [rows, positions, width]; with guidance the second row is without text."""
    from chatterbox.models.t3.modules.cond_enc import T3Cond

    t3 = tts.t3
    if t3.is_gpt:
        from chatterbox.tts_turbo import punc_norm

        ids = tts.tokenizer(punc_norm(text), return_tensors="pt").input_ids
    else:
        from chatterbox.tts import punc_norm

        ids = tts.tokenizer.text_to_tokens(punc_norm(text))
        ids = torch.nn.functional.pad(ids, (1, 0), value=t3.hp.start_text_token)
        ids = torch.nn.functional.pad(ids, (0, 1), value=t3.hp.stop_text_token)
    if ids.shape[1] > t3.hp.max_text_tokens:
        raise Refused("too_long", f"the text has {ids.shape[1]} tokens, at most {t3.hp.max_text_tokens} are possible")
    ids = ids.to(tts.device).expand(2 if guidance else 1, -1)
    start = torch.full_like(ids[:, :1], t3.hp.start_speech_token)
    heard = T3Cond(
        speaker_emb=voice.speaker,
        cond_prompt_speech_tokens=voice.prompt,
        emotion_adv=torch.full((1, 1, 1), float(exaggeration), device=tts.device),
    )
    embeddings, _ = t3.prepare_input_embeds(
        t3_cond=heard, text_tokens=ids, speech_tokens=start, cfg_weight=float(guidance)
    )
    if t3.is_gpt:
        return embeddings
    # Trained with two starts: this is the one at position 0 of the speech.
    again = t3.speech_emb(start) + t3.speech_pos_emb.get_fixed_embedding(0)
    return torch.cat([embeddings, again], dim=1)


def _ending(tts: Any) -> list[int]:
    """Return the tokens of silence that the package puts after what Turbo says."""
    if not tts.t3.is_gpt:
        return []
    from chatterbox.models.s3gen.const import S3GEN_SIL

    return [S3GEN_SIL] * 3


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Keep progress bars out of the log, of which every decoding of Turbo has one."""
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing), contextlib.redirect_stderr(nothing):
        yield
