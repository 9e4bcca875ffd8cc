"""The stages in their order, with the question that each answers and its share of the time. Needs no package."""

from __future__ import annotations

from dataclasses import dataclass

#: Exit status of a worker that cannot run any stage on this machine.
NO_DEVICE = 4
#: A stage is not begun with less time than this, in seconds.
_LEAST_S = 3.0


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage and the seconds it may take."""

    name: str
    seconds: float
    question: str


STAGES = (
    Stage("machine", 30, "Which versions, and how fast does the device copy, multiply and launch?"),
    Stage("attention", 30, "Does the attention call read the rows' keys and nothing else, and how long does it take?"),
    Stage("golden", 40, "Does the device compute what the reference computed, also in CUDA graphs?"),
    Stage("capture", 60, "Can the steps be captured, do they deviate, and does a failed capture leave no damage?"),
    Stage("steps", 70, "How long does a captured step take, and in which kernels, without compiling?"),
    Stage("compile", 100, "How long does compiling take, does it deviate, and what does it gain?"),
    Stage("encoders", 50, "What does a text of a new length cost, with and without graphs and cuDNN's attention?"),
    Stage("decoder", 50, "What does decoding cost: captured, and as written, by streams, latents and number format?"),
    Stage("engine", 50, "First frame and real-time factor of one stream, by stage; hang-ups; a lost device"),
    Stage("load", 80, "How many listeners at once are served in real time?"),
    Stage("activations", 30, "What does it cost and gain to compile the decoder's activations?"),
    Stage("socket", 10, "When does the first byte arrive at a socket? (where the server's packages are installed)"),
)


@dataclass(frozen=True, slots=True)
class Timetable:
    """When stages have to end: all in ``seconds``, from ``began`` on (``time.monotonic()``, the same in all processes).

    A stage may use what those before it have left, and one that starts late still gets its own share.
    """

    began: float
    seconds: float

    @property
    def end(self) -> float:
        """When everything has to be over."""
        return self.began + self.seconds

    def deadline(self, name: str, now: float) -> float | None:
        """When a stage that begins now has to end; None when there is no time left for it."""
        if self.end - now < _LEAST_S:
            return None
        planned = 0.0
        for stage in STAGES:
            planned += stage.seconds
            if stage.name == name:
                return min(self.end, max(self.began + planned, now + stage.seconds))
        raise KeyError(name)
