"""Makes the parts of the package chatterbox small; runs in the engine's environment before they are built."""

from functools import partial

from chatterbox.models.s3gen import s3gen
from chatterbox.models.t3.llama_configs import LLAMA_CONFIGS
from chatterbox.models.t3.modules import cond_enc
from s3tokenizer.model_v2 import S3TokenizerV2

WIDTH = 64


def smaller(part, **sizes):
    """The constructor of a part, with these sizes in place of those that it is called with."""
    return lambda **arguments: part(**{**arguments, **sizes})


LLAMA_CONFIGS["Llama_520M"].update(
    hidden_size=WIDTH,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=2,
    head_dim=WIDTH // 2,
    intermediate_size=2 * WIDTH,
)
LLAMA_CONFIGS["GPT2_medium"].update(hidden_size=WIDTH, n_embd=WIDTH, n_layer=2, n_head=2)
cond_enc.Perceiver = partial(cond_enc.Perceiver, pre_attention_query_size=WIDTH, embedding_dim=WIDTH)

s3gen.CAMPPlus = smaller(s3gen.CAMPPlus, growth_rate=4, init_channels=16)
s3gen.UpsampleConformerEncoder = smaller(s3gen.UpsampleConformerEncoder, num_blocks=1, linear_units=64)
s3gen.ConditionalDecoder = smaller(s3gen.ConditionalDecoder, channels=[32], n_blocks=1, num_mid_blocks=1)
s3gen.HiFTGenerator = smaller(s3gen.HiFTGenerator, base_channels=32)
s3gen.ConvRNNF0Predictor = smaller(s3gen.ConvRNNF0Predictor, cond_channels=16)

# The tokenizer of clips has no way to be given a configuration: this is the one that it takes.
(clips,) = (value for value in S3TokenizerV2.__init__.__defaults__ if hasattr(value, "n_audio_state"))
clips.n_audio_state, clips.n_audio_head, clips.n_audio_layer = 64, 1, 1
