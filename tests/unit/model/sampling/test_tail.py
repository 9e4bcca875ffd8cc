from __future__ import annotations

import torch

from echo.model.sampling.tail import TailCheck, ends_in_silence, flat_tail_start
from echo.types import TailRules
from tests.reference.flattening import first_flat_window


def speech(n: int) -> torch.Tensor:
    return torch.randn(n, 80, generator=torch.Generator().manual_seed(n))


def test_block_with_a_silent_end_stops() -> None:
    rules = TailRules(zero_eps=0.02, zero_tail_frames=16)
    block = torch.cat((speech(16), torch.full((16, 80), -0.02)))
    assert ends_in_silence(block, rules)
    block[20, 3] = 0.03
    assert not ends_in_silence(block, rules)


def test_only_the_last_frames_count() -> None:
    block = torch.cat((speech(16), torch.zeros(8, 80)))
    assert ends_in_silence(block, TailRules(zero_tail_frames=8))
    assert not ends_in_silence(block, TailRules(zero_tail_frames=9))


def test_block_shorter_than_the_tail_is_judged_whole() -> None:
    assert ends_in_silence(torch.zeros(4, 80), TailRules(zero_tail_frames=64))
    assert not ends_in_silence(speech(4), TailRules(zero_tail_frames=64))


def test_flat_tail_needs_two_windows() -> None:
    for tail, expected in ((19, 60 + 19), (20, 60 + 20), (21, 60)):
        assert flat_tail_start(torch.cat((speech(60), torch.zeros(tail, 80)))) == expected


def test_the_last_sound_may_ring_on_into_the_flat_tail() -> None:
    latents = torch.cat((speech(20), torch.zeros(16, 80)))
    ends = [
        TailCheck(latents, latents[-32:], TailRules(flat_window=12, flat_keep=keep), last=False).result()
        for keep in (0, 1, 16, 17)
    ]
    assert ends == [20, 21, 36, 36]


def test_loud_end_behind_a_gap_is_cut_off_too() -> None:
    assert flat_tail_start(torch.cat((speech(30), torch.zeros(40, 80), speech(5)))) == 30


def test_no_latents() -> None:
    assert flat_tail_start(torch.zeros(0, 80)) == 0
    assert first_flat_window(torch.zeros(0, 80)) == 0


def test_forward_scan_stops_at_the_first_pause() -> None:
    latents = torch.cat((speech(30), torch.zeros(25, 80), speech(30), torch.zeros(25, 80)))
    assert first_flat_window(latents) == 30
    assert flat_tail_start(latents) == 85


def test_bfloat16_latents() -> None:
    latents = torch.cat((speech(30), torch.zeros(25, 80)))
    assert first_flat_window(latents.bfloat16()) == first_flat_window(latents) == 30
    assert flat_tail_start(latents.bfloat16()) == 30


def test_a_check_finds_what_the_two_rules_find() -> None:
    rules = TailRules(flat_window=20)
    spoken = torch.cat((speech(60), torch.zeros(40, 80)))
    assert TailCheck(spoken, spoken[60:], rules, last=False).result() == 60
    assert TailCheck(spoken, spoken[30:], rules, last=False).result() == flat_tail_start(spoken, 20, rules.flat_std)
    loud = torch.cat((spoken, speech(40)))
    assert TailCheck(loud, loud[100:], rules, last=False).result() is None
    assert TailCheck(loud, loud[100:], rules, last=True).result() == 100  # not before the block that is checked
    assert TailCheck(speech(10), speech(10), rules, last=True).result() == 10


def test_silence_shorter_than_a_flat_window_is_cut_only_where_the_plan_says_so() -> None:
    spoken = torch.cat((speech(60), torch.zeros(18, 80)))
    for cut, end in ((False, 78), (True, 60)):
        rules = TailRules(flat_window=32, cut_silent_tail=cut)
        assert TailCheck(spoken, spoken[32:], rules, last=False).result() == end
    silent = torch.zeros(18, 80)
    assert TailCheck(torch.cat((speech(60), silent)), silent, TailRules(cut_silent_tail=True), last=True).result() == 60
