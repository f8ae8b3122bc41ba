"""How long a run trains, and the learning rate that follows from it."""

import math
import time
from dataclasses import dataclass

from ffrl.errors import UserError


@dataclass(frozen=True)
class Budget:
    """Either a number of iterations or minutes of training time; exactly one of the two.

    A budget of iterations is reproducible. One of minutes counts training time only, also across a resume: of the clock
    on the wall, or with `processor_time` of the processors, all threads together, which other work on the machine
    hardly changes.
    """

    iterations: int | None = None
    minutes: float | None = None
    processor_time: bool = False

    def __post_init__(self) -> None:
        if (self.iterations is None) == (self.minutes is None):
            raise UserError(f"budget: expected either iterations or minutes, found {self.iterations}, {self.minutes}")
        if self.iterations is not None and self.iterations < 1:
            raise UserError(f"--iterations: expected at least 1, found {self.iterations}")
        if self.minutes is not None and not (self.minutes > 0 and math.isfinite(self.minutes)):
            raise UserError(f"--minutes: expected a positive number, found {self.minutes}")
        if self.processor_time and self.minutes is None:
            raise UserError("--processor-time: expected --minutes with it, found none")

    def fraction(self, iteration: int, seconds: float) -> float:
        """The share of the budget used after `iteration` iterations and `seconds` of training, at most 1."""
        used = iteration / self.iterations if self.iterations else seconds / (60 * self.minutes)  # type: ignore[operator]
        return min(1.0, used)

    def describe(self) -> str:
        """For people."""
        if self.iterations:
            return f"{self.iterations} iterations"
        return f"{self.minutes:g} minutes{' of processor time' if self.processor_time else ''}"

    def clock(self) -> float:
        """Seconds since some moment, as this budget counts them."""
        return time.process_time() if self.processor_time else time.perf_counter()


def learning_rate(
    peak: float, fraction: float, iteration: int, warmup_iterations: int, schedule: str = "cosine"
) -> float:
    """Half a cosine from `peak` to 0 over the budget ("cosine"), or `peak` ("constant"), times a linear warm-up over
    the first iterations.
    """
    warmup = min(1.0, (iteration + 1) / warmup_iterations) if warmup_iterations else 1.0
    if schedule == "constant":
        return peak * warmup
    return peak * warmup * 0.5 * (1 + math.cos(math.pi * fraction))
