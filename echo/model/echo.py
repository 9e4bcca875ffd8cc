"""EchoModel: the transformer, the decoder and the PCA as one model that speaks in blocks."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Generator, Sequence

import torch
from torch import Tensor
from typing_extensions import override

from echo.model.autoencoder.speaker import run_to_end, sliced_speaker_latents
from echo.model.autoencoder.streaming import DecodeState, StreamingDecoder
from echo.model.base import BlockModel, Demand
from echo.model.files.weights import LoadedEcho
from echo.model.network.dit import EchoDiT
from echo.model.network.kv import KV, Allocate, copy_into, key_count
from echo.model.network.modulation import ModulationCache
from echo.model.network.transfer import Arriving, pinned_copy
from echo.model.sampling.demand import estimate_demand
from echo.model.sampling.guidance import Conditions
from echo.model.sampling.prefix import Prefix
from echo.model.sampling.sampler import BlockSampler, draw_noise, make_conditions, step_together
from echo.model.sampling.tail import TailCheck, ends_in_silence
from echo.types import Audio, BlockSpec, SamplerParams, TailRules, TextAttention, Utterance, VoiceState

#: Steps queued on the device beyond the running one: enough that it never waits for the host.
_STEPS_AHEAD = 1

#: Latents of a reference that are encoded between two steps of those who are being served, 0.7 s: on a CPU about the
#: work of a step of the embedded model. A GPU takes the autoencoder's longest piece, 3 s, in less time than a step.
_CPU_SLICE = 16
#: Patches of four latents that the speaker encoder reads at a time.
_SLICE_PATCHES = 32

#: What an error says where torch has no class for it: the allocator of the CPU, cuBLAS, and the driver when it launches
#: a graph.
_OUT_OF_MEMORY = ("DefaultCPUAllocator: can't allocate", "ALLOC_FAILED", "CUDA error: out of memory")


class Residence:
    """Device memory for voices that stay there, up to a budget in bytes; used by the device's thread."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._used = 0
        #: Sizes of the voices that were garbage collected since; appending is safe from any thread.
        self._freed: deque[int] = deque()

    def keep(self, kv: KV, allocate: Allocate) -> KV | None:
        """A copy on the device; None where the budget has no room for it."""
        while self._freed:
            self._used -= self._freed.popleft()
        if self._used + kv.nbytes > self.budget:
            return None
        kept = copy_into(kv, allocate)  # may find no memory
        self._used += kv.nbytes
        weakref.finalize(kept, self._freed.append, kv.nbytes)
        return kept


class EchoVoice:
    """A reference voice: the speaker's K/V, stored on the device, or on the host where there is no room.

    A voice on the host is copied to the device once for all utterances that use it at the same time.
    """

    def __init__(self, kv: KV, dit: EchoDiT, residence: Residence) -> None:
        kept = residence.keep(kv, dit.allocate)
        self._kept = pinned_copy(kv) if kept is None else kept
        self._dit = dit
        self._in_use: weakref.ref[KV] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes stored."""
        return self._kept.nbytes

    @property
    def keys(self) -> int:
        """Number of keys."""
        return key_count(self._kept)

    def kv(self) -> KV:
        """The K/V on the device; called by the device's thread."""
        if self._kept.device == self._dit.device:
            return self._kept
        kv = self._in_use() if self._in_use is not None else None
        if kv is None:
            kv = copy_into(self._kept, self._dit.allocate)
            self._in_use = weakref.ref(kv)
        return kv


class EchoModel(BlockModel):
    """``BlockModel`` for Echo-TTS.

    tokenize        maps a text to byte ids, BOS first
    resident_bytes  of encoded voices that may stay on the device
    """

    def __init__(
        self,
        loaded: LoadedEcho,
        tokenize: Callable[[str], Sequence[int]],
        *,
        max_speaker_latents: int,
        resident_bytes: int = 0,
    ) -> None:
        self.dit: EchoDiT = loaded.dit
        self.autoencoder = loaded.autoencoder
        self.pca = loaded.pca
        self._tokenize = tokenize
        self.decoder = StreamingDecoder(loaded.autoencoder, loaded.pca)
        self._tables = ModulationCache(self.dit.modulation)
        #: Decoder state of one stream in bytes, a constant of the model; known after the first decode (the warm-up's).
        self._decode_bytes = 0
        #: Completion events of the steps that may still be running.
        self._steps: deque[torch.cuda.Event] = deque()
        self._max_speaker_latents = max_speaker_latents
        self._residence = Residence(resident_bytes)

    @property
    def resident_bytes(self) -> int:
        """Bytes of encoded voices that may stay on the device."""
        return self._residence.budget

    @property
    @override
    def decodes_asynchronously(self) -> bool:
        return self.autoencoder.device.type == "cuda"

    def encode_voice(self, audio: Audio) -> EchoVoice:
        """Encode a reference clip, mono 44.1 kHz; raises BadRequest for one that is too short."""
        return run_to_end(self.encode_voice_in_slices(audio))

    @override
    def encode_voice_in_slices(self, audio: Audio) -> Generator[None, None, EchoVoice]:
        # Every slice costs the same, however long the reference is.
        latents, valid = yield from sliced_speaker_latents(
            self.autoencoder,
            self.pca,
            torch.from_numpy(audio),
            max_latents=self._max_speaker_latents,
            slice_latents=_CPU_SLICE if self.autoencoder.device.type == "cpu" else None,
        )
        kv = yield from self.dit.encode_speaker_in_slices(latents, valid, _SLICE_PATCHES)
        return EchoVoice(kv, self.dit, self._residence)

    @override
    def tokenize(self, text: str) -> Sequence[int]:
        return self._tokenize(text)

    @override
    def demand(self, utterance: Utterance, tokens: Sequence[int]) -> Demand:
        voice = utterance.voice
        return estimate_demand(
            self.dit.config,
            utterance.plan,
            itemsize=self.dit.dtype.itemsize,
            text_keys=len(tokens),
            speaker_keys=voice.keys if isinstance(voice, EchoVoice) else 0,
            decode_bytes=self._decode_bytes,
            estimate_s=utterance.estimate_s,
        )

    @override
    def conditions(self, tokens: Sequence[int], voice: VoiceState | None) -> Conditions:
        ids = torch.tensor(tokens, dtype=torch.int32)
        assert voice is None or isinstance(voice, EchoVoice), "a voice of another engine"
        return make_conditions(self.dit, ids, voice.kv() if voice is not None else None)

    @override
    def empty_prefix(self) -> Prefix:
        return Prefix(self.dit)

    @override
    def extend(self, prefix: Prefix, latents: Tensor) -> Prefix:
        return prefix.append(latents)

    @override
    def sampler(
        self, conditions: Conditions, prefix: Prefix, spec: BlockSpec, params: SamplerParams, noise_key: tuple[int, ...]
    ) -> BlockSampler:
        seed, chunk, block, attempt = noise_key
        noise = draw_noise(seed, chunk, block, attempt, spec.size)
        return BlockSampler(self.dit, conditions, prefix, spec, params, noise, tables=self._tables)

    @override
    def step(self, samplers: Sequence[BlockSampler]) -> None:
        """Take one Euler step of several blocks.

        Returns when all but the last steps have completed on the device. So its queue stays short, and a new request,
        which waits behind the queue, starts soon.
        """
        step_together(self.dit, samplers)
        if self.dit.device.type == "cuda":
            event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # torch's own
            event.record(torch.cuda.current_stream(self.dit.device))
            self._steps.append(event)
            if len(self._steps) > _STEPS_AHEAD:
                self._steps.popleft().synchronize()

    @override
    def speech_end(self, spoken: Sequence[Tensor], rules: TailRules, *, last: bool) -> Callable[[], int | None]:
        if not last and not rules.early_stop_on_zero:
            return lambda: None
        if self.dit.device.type == "cuda":
            return TailCheck(torch.cat(list(spoken)), spoken[-1], rules, last=last).result
        # What is not needed is not computed where nobody waits for it in vain.
        if not last and not ends_in_silence(spoken[-1], rules):
            return lambda: None
        return TailCheck(torch.cat(list(spoken)), spoken[-1], rules, last=last).result

    @override
    def text_attention(self, sampler: BlockSampler) -> Callable[[], TextAttention] | None:
        if sampler.attention is None:
            return None
        return Arriving(sampler.attention).fetch

    @override
    def lost_with(self, error: Exception) -> bool:
        if not isinstance(error, RuntimeError):
            return False
        try:
            for device in {self.dit.device, self.autoencoder.device}:
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
        except RuntimeError:
            return True  # a sticky error: every call fails from now on
        return False

    @override
    def out_of_memory(self, error: Exception) -> bool:
        return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
            isinstance(error, RuntimeError) and any(said in str(error) for said in _OUT_OF_MEMORY)
        )

    @override
    def decode(
        self, states: Sequence[DecodeState | None], latents: Sequence[Tensor]
    ) -> Callable[[], Sequence[tuple[Audio, DecodeState]]]:
        # One after the other on a CPU: batched convolutions save nothing there, and their rounding would depend on the
        # other utterances in the batch.
        if self.autoencoder.device.type == "cpu":
            decoded = [self.decoder.decode(state, new) for state, new in zip(states, latents, strict=True)]
            self._decode_bytes = decoded[0][1].nbytes
            return lambda: decoded
        launched = self.decoder.launch(states, latents)
        self._decode_bytes = launched.states[0].nbytes
        return lambda: list(zip(launched.fetch(), launched.states, strict=True))
