"""Writes a tiny random checkpoint, and what the package itself says with it; run as a program.

``python foreign.py FOLDER TEXT`` runs in the engine's environment, with HF_HUB_CACHE=FOLDER/hub, and leaves in FOLDER:

model      a checkpoint as it is released, of 17 MB
hub        what the package takes from the hub besides
clip.wav   a clip
whole.npy  the samples of TEXT with the clip's voice and the seed 7, as the package gives them: 16 bits, all at once
facts.json in how many segments TEXT is spoken, with how many samples of silence between two of them
"""

import json
import random
import runpy
import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
runpy.run_path(str(HERE / "shrink.py"))

import safetensors.torch  # noqa: E402 - the parts of the package are small only now
import sentencepiece  # noqa: E402
import soundfile  # noqa: E402
from indextts import infer_v2  # noqa: E402
from indextts.s2mel.modules.bigvgan import bigvgan  # noqa: E402
from indextts.utils.maskgct_utils import build_semantic_codec  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers  # noqa: E402
from transformers import (  # noqa: E402
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2BertModel,
)

RATE = 22_050
WIDTH = 64
#: The model says so many tokens of every segment.
TOKENS = 60
#: A random model does not stop: the first channel says by its sign whether speech goes on, the second is constant.
GOES_ON, ENDS, CONSTANT = -3.0, 3.0, 1.0
START, STOP = 64, 65
SEGMENT_TOKENS = 40
EMOTIONS_OF_EACH = [3, 17, 2, 8, 4, 5, 10, 24]
#: What the model of texts' emotions answers: one for texts that end with an exclamation mark, the other for the rest.
HAPPY, SAD = '{"高兴": 0.7}', '{"悲伤": 0.9}'
LINES = ["THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG.", "PACK MY BOX WITH FIVE DOZEN LIQUOR JUGS, WILL YOU? YES!"]

CONDITION = {"output_size": WIDTH, "linear_units": 128, "attention_heads": 2, "num_blocks": 1}
CONFIG = {
    "dataset": {"bpe_model": "bpe.model"},
    "gpt": {
        "model_dim": WIDTH,
        "layers": 2,
        "heads": 2,
        "max_mel_tokens": 400,
        "max_text_tokens": 100,
        "max_conditioning_inputs": 1,
        "mel_length_compression": 1024,
        "use_mel_codes_as_input": True,
        "train_solo_embeddings": False,
        "number_text_tokens": 120,
        "start_text_token": 0,
        "stop_text_token": 1,
        "number_mel_codes": STOP + 1,
        "start_mel_token": START,
        "stop_mel_token": STOP,
        "condition_type": "conformer_perceiver",
        "condition_module": {**CONDITION, "input_layer": "conv2d2", "perceiver_mult": 2},
        "emo_condition_module": {**CONDITION, "input_layer": "conv2d2", "perceiver_mult": 2},
    },
    "semantic_codec": {
        "codebook_size": START,
        "hidden_size": WIDTH,
        "codebook_dim": 8,
        "vocos_dim": WIDTH,
        "vocos_intermediate_dim": 128,
        "vocos_num_layers": 1,
    },
    "s2mel": {
        "preprocess_params": {
            "sr": RATE,
            "spect_params": {
                **{"n_fft": 1024, "win_length": 1024, "hop_length": 256, "n_mels": 80},
                **{"fmin": 0, "fmax": "None"},
            },
        },
        "dit_type": "DiT",
        "reg_loss_type": "l1",
        "style_encoder": {"dim": 192},
        "length_regulator": {
            "channels": WIDTH,
            "in_channels": WIDTH,
            "is_discrete": False,
            "content_codebook_size": 64,
            "sampling_ratios": [1, 1],
            "vector_quantize": False,
            "n_codebooks": 1,
            "quantizer_dropout": 0.0,
            "f0_condition": False,
            "n_f0_bins": 8,
        },
        "DiT": {
            "hidden_dim": WIDTH,
            "num_heads": 2,
            "depth": 2,
            "class_dropout_prob": 0.1,
            "block_size": 8192,
            "in_channels": 80,
            "style_condition": True,
            "final_layer_type": "wavenet",
            "target": "mel",
            "content_dim": WIDTH,
            "content_codebook_size": 64,
            "content_type": "discrete",
            "f0_condition": False,
            "n_f0_bins": 8,
            "content_codebooks": 1,
            "is_causal": False,
            "long_skip_connection": True,
            "zero_prompt_speech_token": False,
            "time_as_token": False,
            "style_as_token": False,
            "uvit_skip_connection": True,
            "add_resblock_in_transformer": False,
        },
        "wavenet": {
            "hidden_dim": WIDTH,
            "num_layers": 2,
            "kernel_size": 5,
            "dilation_rate": 1,
            "p_dropout": 0.2,
            "style_condition": True,
        },
    },
    "gpt_checkpoint": "gpt.pth",
    "w2v_stat": "wav2vec2bert_stats.pt",
    "s2mel_checkpoint": "s2mel.pth",
    "emo_matrix": "feat2.pt",
    "spk_matrix": "feat1.pt",
    "emo_num": EMOTIONS_OF_EACH,
    "qwen_emo_path": "qwen0.6bemo4-merge/",
    "version": 2.0,
}
VOCODER = {
    "resblock": "1",
    "num_mels": 80,
    "upsample_rates": [4, 4, 2, 2, 2, 2],
    "upsample_kernel_sizes": [8, 8, 4, 4, 4, 4],
    "upsample_initial_channel": 128,
    "resblock_kernel_sizes": [3, 7, 11],
    "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5]],
    "activation": "snakebeta",
    "snake_logscale": True,
    "use_tanh_at_final": False,
    "use_bias_at_final": False,
}


def snapshot(hub, name):
    """The folder of a repository's files in the cache of the hub."""
    commit = "0" * 40
    folder = hub / f"models--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    (folder / "snapshots" / commit).mkdir(parents=True)
    return folder / "snapshots" / commit


@torch.no_grad()
def write_gpt(config, path):
    gpt = infer_v2.UnifiedVoice(**config.gpt)
    for name, value in gpt.gpt.named_parameters():
        if value.ndim == 2:
            value *= 8  # as they are initialised, layers do next to nothing
        if "c_proj" in name:  # no layer writes into the first two channels
            value[..., :2] = 0
    gpt.mel_embedding.weight *= 20
    gpt.mel_embedding.weight[:, :2] = 0
    positions = gpt.mel_pos_embedding.emb.weight
    positions[:, 1] = CONSTANT
    positions[:TOKENS, 0], positions[TOKENS:, 0] = GOES_ON, ENDS
    head = gpt.mel_head
    head.weight *= 4
    head.weight[:, :2] = 0
    head.weight[STOP] = 0
    head.weight[STOP, 0] = 100
    head.bias[START] = -1000
    torch.save({"model": gpt.state_dict()}, path)


def write_s2mel(config, path):
    s2mel = infer_v2.MyModel(config.s2mel, use_gpt_latent=True)
    torch.save({"net": {name: part.state_dict() for name, part in s2mel.models.items()}}, path)


@torch.no_grad()
def write_emotions(folder):
    """A model that answers by the last letter of what it reads."""
    letters = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE({**letters, HAPPY: len(letters), SAD: len(letters) + 1}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_tokens([AddedToken(answer, normalized=False) for answer in (HAPPY, SAD)])
    happy, sad, cheer = (tokenizer.token_to_id(token) for token in (HAPPY, SAD, "!"))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    fast.chat_template = "{{ messages[0]['content'] }}{{ messages[1]['content'] }}"
    fast.save_pretrained(folder)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=tokenizer.get_vocab_size(),
            **{"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1},
            **{"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 16, "tie_word_embeddings": False},
        )
    )
    for name, value in model.named_parameters():
        if "o_proj" in name or "down_proj" in name:
            value.zero_()
    model.model.embed_tokens.weight[:, 0] = -1
    model.model.embed_tokens.weight[cheer, 0] = 1
    model.lm_head.weight.zero_()
    model.lm_head.weight[happy, 0], model.lm_head.weight[sad, 0] = 10, -10
    model.generation_config = GenerationConfig(eos_token_id=[happy, sad])
    model.save_pretrained(folder)


def write(folder):
    torch.manual_seed(1)
    model, hub = folder / "model", folder / "hub"
    model.mkdir()
    config = OmegaConf.create({**CONFIG, "vocoder": {"type": "bigvgan", "name": str(model / "vocoder")}})
    OmegaConf.save(config, model / "config.yaml")
    write_gpt(config, model / "gpt.pth")
    write_s2mel(config, model / "s2mel.pth")
    write_emotions(model / config.qwen_emo_path)
    torch.save({"mean": torch.zeros(WIDTH), "var": torch.ones(WIDTH)}, model / "wav2vec2bert_stats.pt")
    torch.save(torch.randn(sum(EMOTIONS_OF_EACH), 192), model / "feat1.pt")
    torch.save(torch.randn(sum(EMOTIONS_OF_EACH), WIDTH), model / "feat2.pt")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES * 10),
        model_prefix=str(model / "bpe"),
        **{"model_type": "bpe", "vocab_size": 50, "bos_id": 0, "eos_id": 1, "unk_id": 2, "minloglevel": 2},
    )

    (model / "vocoder").mkdir()
    (model / "vocoder" / "config.json").write_text(json.dumps(VOCODER))
    vocoder = bigvgan.BigVGAN(bigvgan.AttrDict(VOCODER))
    torch.save({"generator": vocoder.state_dict()}, model / "vocoder" / "bigvgan_generator.pt")

    encoder = Wav2Vec2BertModel(
        Wav2Vec2BertConfig(hidden_size=WIDTH, num_hidden_layers=17, num_attention_heads=2, intermediate_size=WIDTH)
    )
    clips = snapshot(hub, "facebook/w2v-bert-2.0")
    encoder.save_pretrained(clips)
    SeamlessM4TFeatureExtractor().save_pretrained(clips)
    codec = snapshot(hub, "amphion/MaskGCT") / "semantic_codec"
    codec.mkdir()
    safetensors.torch.save_model(build_semantic_codec(config.semantic_codec), codec / "model.safetensors")
    style = infer_v2.CAMPPlus(feat_dim=80, embedding_size=192)
    torch.save(style.state_dict(), snapshot(hub, "funasr/campplus") / "campplus_cn_common.bin")


def main(folder, text):
    write(folder)
    time = np.arange(3 * RATE) / RATE
    clip = 0.3 * np.sin(2 * np.pi * 220 * time) + np.random.default_rng(5).normal(0, 0.05, len(time))
    soundfile.write(folder / "clip.wav", clip.astype(np.float32), RATE, subtype="FLOAT")
    tts = infer_v2.IndexTTS2(model_dir=str(folder / "model"), device="cpu")
    torch.manual_seed(7)
    random.seed(7)
    rate, whole = tts.infer(
        str(folder / "clip.wav"), text, None, interval_silence=200, max_text_tokens_per_segment=SEGMENT_TOKENS
    )
    assert rate == RATE
    np.save(folder / "whole.npy", whole[:, 0])
    segments = tts.tokenizer.split_segments(tts.tokenizer.tokenize(text), SEGMENT_TOKENS)
    facts = {"segments": len(segments), "silence": int(RATE * 0.2), "tokens": TOKENS}
    (folder / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
