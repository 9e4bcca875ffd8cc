from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from echo.model.network.attention import RowByRow, attend
from echo.model.network.kv import KV, pack_context
from tests.closeness import assert_close

LAYERS, HEADS, WIDTH = 2, 3, 8


def kv(n: int, seed: int) -> KV:
    return torch.randn(LAYERS, 2, HEADS, n, WIDTH, generator=torch.Generator().manual_seed(seed))


def room(n: int) -> KV:
    return torch.full((LAYERS, 2, HEADS, n, WIDTH), torch.nan)


def one_softmax(q: Tensor, k: Tensor, v: Tensor, sources: list[KV], layer: int) -> Tensor:
    """What a row gathers from its own keys and all its sources at once."""
    keys = torch.cat([k.transpose(0, 1), *(source[layer, 0] for source in sources)], dim=1)
    values = torch.cat([v.transpose(0, 1), *(source[layer, 1] for source in sources)], dim=1)
    return F.scaled_dot_product_attention(q.transpose(0, 1), keys, values).transpose(0, 1)


def test_shared_voice_weighs_as_in_one_softmax_whatever_the_rows_sizes() -> None:
    text, latent, voice, other = kv(5, 1), kv(2, 2), kv(7, 3), kv(4, 4)
    sources = [[text, latent], [latent], [text, latent], [text], []]
    voices = [voice, voice, None, other, other]
    sizes = [3, 3, 3, 6, 2]
    contexts = [
        context
        for row, size, shared in zip(sources, sizes, voices, strict=True)
        for context in pack_context([row], size, room, [shared])
    ]
    q, k, v = (torch.randn(sum(sizes), HEADS, WIDTH, generator=torch.Generator().manual_seed(i)) for i in (5, 6, 7))
    for layer in range(LAYERS):
        out = RowByRow(contexts, sizes)(layer, q, k, v)
        for i, span in enumerate(torch.arange(sum(sizes)).split(sizes)):
            seen = [*sources[i], *([voices[i]] if voices[i] is not None else [])]
            expected = one_softmax(q[span], k[span], v[span], seen, layer)
            assert_close(out[span], expected, rtol=1e-5, atol=1e-6)


def test_row_comes_out_the_same_to_the_bit_in_any_company() -> None:
    voice, texts = kv(9, 1), [kv(n, n) for n in (4, 11, 6)]
    sizes = [4, 32, 100]
    q, k, v = (torch.randn(sum(sizes), HEADS, WIDTH, generator=torch.Generator().manual_seed(i)) for i in (5, 6, 7))
    contexts = [pack_context([[text]], n, room, [voice])[0] for text, n in zip(texts, sizes, strict=True)]
    together = RowByRow(contexts, sizes)(0, q, k, v)
    for i, span in enumerate(torch.arange(sum(sizes)).split(sizes)):
        alone = RowByRow(contexts[i : i + 1], sizes[i : i + 1])(0, q[span], k[span], v[span])
        assert torch.equal(together[span], alone)


def test_devices_without_the_fast_kernel_give_the_same() -> None:
    q, keys = torch.randn(6, HEADS, WIDTH), kv(9, 2)[0]
    fast, weight = attend(q, keys)
    plain, plain_weight = attend(q, keys, fast=False)
    assert_close(plain, fast, rtol=1e-5, atol=1e-6)
    assert_close(plain_weight, weight, rtol=1e-5, atol=1e-6)
