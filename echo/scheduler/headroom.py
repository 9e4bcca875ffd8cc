"""Headroom: limits that are lowered when the device runs out of memory, and rise again after a while."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from echo.scheduler.job import BlockJob
from echo.scheduler.policy import Limits, Phase

#: Seconds without another failure after which lowered limits are doubled. Whoever took the memory, another program or a
#: burst of long texts, may have gone by then; if not, the next failure halves them again, and costs one step.
LOWERED_S = 30.0


class Headroom:
    """The limits that hold now; used by one thread, but ``limits`` may be read by others.

    full  the limits of a device that has the memory it was measured with
    """

    def __init__(self, full: Limits) -> None:
        self.limits = full
        self._full = full
        self._changed = 0.0

    def lower(self, jobs: Sequence[BlockJob], active: int, now: float) -> None:
        """Allow half of the work that has failed for want of memory.

        What one job alone needs cannot be halved: then fewer are active at a time.

        active  number of active jobs, with these
        """
        self._changed = now
        if len(jobs) == 1:
            self.limits = replace(self.limits, max_jobs=max(1, min(self.limits.max_jobs, active - 1)))
        elif jobs[0].phase is Phase.STEP:
            self.limits = replace(
                self.limits,
                max_rows=max(1, sum(job.rows for job in jobs) // 2),
                max_row_latents=max(1, sum(job.row_latents for job in jobs) // 2),
            )
        else:
            self.limits = replace(self.limits, max_decode=max(1, sum(len(job.pending) for job in jobs) // 2))

    def rise(self, now: float) -> None:
        """Double lowered limits for every ``LOWERED_S`` that has passed since they changed."""
        while self.limits is not self._full and now - self._changed >= LOWERED_S:
            self._changed += LOWERED_S
            raised = replace(
                self.limits,
                max_jobs=min(2 * self.limits.max_jobs, self._full.max_jobs),
                max_rows=min(2 * self.limits.max_rows, self._full.max_rows),
                max_row_latents=min(2 * self.limits.max_row_latents, self._full.max_row_latents),
                max_decode=min(2 * self.limits.max_decode, self._full.max_decode),
            )
            self.limits = self._full if raised == self._full else raised
