"""Writes tiny random checkpoints of both variants, and what the package itself says of them; run as a program.

``python foreign.py FOLDER ADAPTER`` runs in the engine's environment and leaves in FOLDER:

english, turbo  checkpoints as they are released, of 70 and 105 MB; Turbo's has a voice of its own
facts.json      of each variant and setting, the tokens that the package and the adapter choose when only the likeliest
                is possible, and the samples that the package makes of them; further how much speech in chunks differs
                from speech as a whole, and how a long text is cut off
"""

import functools
import importlib.util
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
runpy.run_path(str(HERE / "shrink.py"))

from chatterbox.models.s3gen import S3Gen  # noqa: E402 - its parts are small only now
from chatterbox.models.t3 import T3  # noqa: E402
from chatterbox.models.t3.modules.t3_config import T3Config  # noqa: E402
from chatterbox.models.voice_encoder import VoiceEncoder  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers  # noqa: E402
from transformers import PreTrainedTokenizerFast  # noqa: E402

#: The English model says so many tokens of every text.
TOKENS = 40
#: The one of Turbo stops at this position, of which clip and text take some.
LAST_POSITION = 230
#: A random model does not stop: the first channel says by its sign whether speech goes on, the second is constant.
GOES_ON, ENDS, CONSTANT = -3.0, 3.0, 1.0
START, STOP = 6561, 6562
#: Only ids below it are spoken: so many that chance decides, and so few that some are spoken again.
LIKELY = 200
RATE = 24_000
CLIP = np.random.default_rng(5).normal(0, 0.1, 6 * RATE).astype(np.float32)


def save(part, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous().clone() for name, value in part.state_dict().items()}, path)


@torch.no_grad()
def free_two_channels(t3, writers, width_first):
    """Let no layer write into the first two channels, nor what tokens mean; and let all else have an effect."""
    for name, value in t3.tfmr.named_parameters():
        if value.ndim == 2 and ".weight" in name and "wpe" not in name and "wte" not in name:
            value *= 8  # as they are initialised, layers do next to nothing
        if any(writer in name for writer in writers):
            rows = value if width_first or value.ndim == 1 else value.T
            rows[:2] = 0
    t3.speech_emb.weight[:, :2] = 0
    t3.speech_head.weight *= 4  # or all tokens would be equally likely


@torch.no_grad()
def write_english(folder):
    torch.manual_seed(1)
    t3 = T3()
    free_two_channels(t3, ["o_proj", "down_proj"], width_first=True)
    positions = t3.speech_pos_emb.emb.weight
    positions[:, 1] = CONSTANT
    positions[:TOKENS, 0], positions[TOKENS:, 0] = GOES_ON, ENDS
    head = t3.speech_head.weight
    head[:, :2] = 0
    head[LIKELY:] = 0
    head[LIKELY:, 1] = -100
    head[STOP, 0], head[STOP, 1] = 100, 0
    save(t3, folder / "t3_cfg.safetensors")
    save(S3Gen(), folder / "s3gen.safetensors")
    save(VoiceEncoder(), folder / "ve.safetensors")
    special = {"[STOP]": 0, "[UNK]": 1, "[SPACE]": 2, "[START]": 255}
    letters = {chr(code): code for code in range(33, 127)}
    tokenizer = Tokenizer(models.BPE({**special, **letters}, [], unk_token="[UNK]"))
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in special])
    tokenizer.save(str(folder / "tokenizer.json"))


@torch.no_grad()
def write_turbo(folder):
    torch.manual_seed(2)
    sizes = T3Config(text_tokens_dict_size=50276)
    sizes.llama_config_name, sizes.speech_tokens_dict_size = "GPT2_medium", STOP + 1
    sizes.input_pos_emb, sizes.speech_cond_prompt_len = None, 375
    sizes.use_perceiver_resampler = sizes.emotion_adv = False
    t3 = T3(sizes)
    free_two_channels(t3, ["c_proj"], width_first=False)
    positions = t3.tfmr.wpe.weight
    positions[:, 1] = 0
    positions[:LAST_POSITION, 0], positions[LAST_POSITION:, 0] = GOES_ON, ENDS
    head, bias = t3.speech_head.weight, t3.speech_head.bias
    head[:, :2] = 0
    head[LIKELY:] = 0
    bias[LIKELY:] = -100
    head[STOP, 0], bias[STOP] = 100, 0
    save(t3, folder / "t3_turbo_v1.safetensors")
    save(S3Gen(meanflow=True), folder / "s3gen_meanflow.safetensors")
    save(VoiceEncoder(), folder / "ve.safetensors")
    letters = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE({**letters, "<|endoftext|>": len(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(folder)


def load_adapter(path):
    """The adapter's module, loaded as the child does it."""
    for name in ("child", "adapter"):
        file = path if name == "adapter" else path.with_name("child.py")
        spec = importlib.util.spec_from_file_location(name, file)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules["adapter"]


class Job:
    """What the adapter sees of a job."""

    def __init__(self, text, voice=None, **options):
        self.text, self.voice, self.options = text, voice, options
        self.seed, self.truncated = 0, False

    def step(self):
        pass


def compare(module, adapter, text, **options):
    """The tokens of the package and those of the adapter, and how many samples the package makes."""
    package, chosen = adapter.package, []
    decode = package.s3gen.inference

    @functools.wraps(decode)
    def listen(speech_tokens, **arguments):
        chosen.extend(speech_tokens.tolist())
        return decode(speech_tokens=speech_tokens, **arguments)

    voice = adapter.voice(CLIP, RATE)
    package.s3gen.inference = listen
    whole = package.generate(text, top_p=0.0, **options)  # of the likeliest token alone, so that no chance is left
    package.s3gen.inference = decode
    values = module.checked(adapter.options, {"top_p": 0.0, **options})
    ours = [token for token in adapter.tokens(Job(text), voice, values, torch.Generator()) if token < START]
    return {"package": chosen, "adapter": ours, "samples": whole.shape[1]}


def seams(module, adapter, **chunks):
    """How much the mel frames of a text in chunks differ from those of the whole, in parts of the whole."""
    voice, decoder = adapter.voice(CLIP, RATE), adapter.package.s3gen
    vocode = decoder.hift_inference

    def decoded(**options):
        frames = []

        def listen(mel, *source):
            frames.append(mel[..., module.OVERLAP if source else 0 :])  # without what is decoded again
            return vocode(mel, *source)

        decoder.hift_inference = listen
        for _ in adapter.speak(Job("Nothing is heard so well as this.", voice, **options)):
            pass
        decoder.hift_inference = vocode
        return torch.cat(frames, dim=-1)

    whole = decoded(chunk_size=100)
    return float((decoded(**chunks) - whole).norm() / whole.norm())


def main(folder, path):
    write_english(folder / "english")
    write_turbo(folder / "turbo")
    module = load_adapter(path)
    facts = {}
    for variant, settings in {
        "english": [{}, {"cfg_weight": 0.9, "exaggeration": 1.5, "repetition_penalty": 1.9}],
        "turbo": [{}, {"repetition_penalty": 1.9, "temperature": 0.5}],
    }.items():
        adapter = module.Adapter()
        adapter.load(
            {"model": str(folder / variant), "device": "cpu", "dtype": "", "options": {"variant": variant}},
        )
        facts[variant] = [
            compare(module, adapter, "Nothing is heard so well as this.", **options) for options in settings
        ]
        facts[variant + " seams"] = seams(module, adapter, first_chunk_size=5, continuation_chunk_size=8)
    module.MAX_TOKENS = 10
    job = Job("It is cut off.")
    tokens = list(
        adapter.tokens(job, adapter.voice(CLIP, RATE), module.checked(adapter.options, {}), torch.Generator())
    )
    facts["cut off"] = {"tokens": len(tokens), "truncated": job.truncated}
    adapter.package.conds.save(folder / "turbo" / "conds.pt")
    (folder / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
