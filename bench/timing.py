"""Interleaved timing: what is compared is sampled in turns, so that a slow second of the machine hits all alike."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

#: A sample is at least this long, so that the clock and the loop around a call do not count.
MIN_SAMPLE_S = 200e-6


@dataclass
class Timing:
    """``samples``: seconds a call. ``cores``: processor time over wall time, the cores that the call kept busy."""

    inner: int
    samples: list[float] = field(default_factory=list)
    spent: float = 0.0
    _processor: float = 0.0

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def minimum(self) -> float:
        return min(self.samples)

    @property
    def cores(self) -> float:
        return self._processor / self.spent

    def add(self, call: Callable[[], object]) -> None:
        """One sample: ``inner`` calls."""
        inner = self.inner
        before = time.process_time()
        start = time.perf_counter()
        for _ in range(inner):
            call()
        wall = time.perf_counter() - start
        self._processor += time.process_time() - before
        self.spent += wall
        self.samples.append(wall / inner)


def calls_per_sample(call: Callable[[], object], at_least: float = MIN_SAMPLE_S) -> int:
    """How often ``call`` must be repeated for a sample to last ``at_least`` seconds. Warms it up as well."""
    call()
    inner = 1
    while True:
        start = time.perf_counter()
        for _ in range(inner):
            call()
        wall = time.perf_counter() - start
        if wall >= at_least:
            return inner
        inner = max(inner + 1, min(16 * inner, int(1.2 * inner * at_least / max(wall, 1e-9))))


def interleave(
    calls: Mapping[str, Callable[[], object]],
    *,
    seconds: float = 1.0,
    most: int = 300,
    least: int = 3,
    inner: int | None = None,
) -> dict[str, Timing]:
    """Times ``calls`` in rounds, each in a new order, until each has ``most`` samples or has run for ``seconds``.

    What runs before a call leaves it the caches, full of its own data or of another's: an order that stayed would give
    some a better neighbour than others. A call slower than ``seconds`` still gets ``least`` samples: slow rows are
    kept, not dropped. The garbage collector runs between rounds and not within a sample. ``inner``: calls a sample;
    found, and all warmed up by it, where not given.
    """
    timings = {name: Timing(calls_per_sample(call) if inner is None else inner) for name, call in calls.items()}
    order, collecting = random.Random(0), gc.isenabled()
    gc.disable()
    try:
        turn = 0
        while True:
            due = [n for n, t in timings.items() if _wants_more(t, seconds, most, least)]
            if not due:
                return timings
            for name in order.sample(due, len(due)):
                timings[name].add(calls[name])
            turn += 1
            if turn % 16 == 0:
                gc.collect(0)
    finally:
        if collecting:
            gc.enable()


def _wants_more(t: Timing, seconds: float, most: int, least: int) -> bool:
    return len(t.samples) < least or (len(t.samples) < most and t.spent < seconds)
