"""What a launch reports."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

SHAPE = re.compile(r"\.(m\d+n\d+k\d+)\b")


class Race(NamedTuple):
    """Two accesses that no barrier orders, or a divergent barrier: the instruction that was caught, and the other."""

    kind: str
    instruction: str
    other: str
    times: int

    def __str__(self) -> str:
        return f"{self.kind}, {self.times} times: `{self.instruction}` after `{self.other}`"


class Traffic(NamedTuple):
    """Bytes that loads and stores (and atomic operations, as both) moved in one buffer.

    ``distinct_*`` count every byte once a launch; ``block_*`` every byte once a block, the largest of all blocks.
    """

    loaded: int
    stored: int
    distinct_loaded: int
    distinct_stored: int
    block_loaded: int
    block_stored: int


@dataclass(frozen=True)
class Launch:
    """The report of a launch that came to its end.

    ``traffic`` has the buffers by their place among the arguments.
    """

    races: tuple[Race, ...]
    executed: Counter[str]
    traffic: dict[int, Traffic]

    @property
    def instructions(self) -> int:
        """Warp instructions, those whose predicate held in no lane left out."""
        return self.executed.total()

    def count(self, prefix: str) -> int:
        """Warp instructions whose opcode starts with the parts of ``prefix``: ``ld.global``, ``bar``."""
        return sum(times for opcode, times in self.executed.items() if f"{opcode}.".startswith(f"{prefix}."))

    @property
    def classes(self) -> Counter[str]:
        """Warp instructions by the first part of their opcode."""
        found: Counter[str] = Counter()
        for opcode, times in self.executed.items():
            found[opcode.split(".")[0]] += times
        return found

    @property
    def matrix(self) -> Counter[str]:
        """Matrix multiplications, one a warp, by shape and operand type: ``m16n8k8.tf32``."""
        found: Counter[str] = Counter()
        for opcode, times in self.executed.items():
            first, *parts = opcode.split(".")
            shape = SHAPE.search(opcode)
            if shape and first in ("mma", "wmma", "wgmma") and "load" not in parts and "store" not in parts:
                types = parts[parts.index(shape[1]) + 1 :]
                operand = next((x for x in types if x in ("tf32", "bf16", "f16", "f64")), "f16")
                found[f"{shape[1]}.{operand}"] += times
        return found

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of the matrix multiplications; a wgmma, of 64 rows, is the work of four warps."""
        total = 0
        for shape, times in self.matrix.items():
            m, n, k = map(int, re.findall(r"\d+", shape.split(".")[0]))
            total += times * m * n * k // (4 if m == 64 else 1)
        return total

    def require_no_races(self) -> Launch:
        """The launch itself; AssertionError with all races if there are any."""
        assert not self.races, "\n".join(str(race) for race in self.races)
        return self
