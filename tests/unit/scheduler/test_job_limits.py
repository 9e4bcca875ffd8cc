import torch

from echo.engines.load import job_limits
from echo.settings import load_settings

CPU = torch.device("cpu")


def test_the_operator_s_memory_budget_holds_and_else_there_is_a_default() -> None:
    assert job_limits(load_settings({"ECHO_KV_BUDGET_MB": "100"}), CPU, 8).max_bytes == 100 * 2**20
    assert job_limits(load_settings({}), CPU, 8).max_bytes == 4096 * 2**20


def test_a_cpu_takes_small_steps_of_blocks_of_one_size() -> None:
    limits = job_limits(load_settings({}), CPU, 8)
    assert limits.max_jobs == 8
    assert limits.max_row_latents == 384
    assert not limits.mix_sizes
