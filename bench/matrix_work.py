"""How much of what a Triton kernel's matrix instructions do is needed, read off its intermediate representation.

Triton lays the warps of a block over the tile of each product; where a product feeds the next one, all along its rows.
Where the tile has fewer rows than the warps take, several compute the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_LAYOUT = re.compile(
    r"^(#\w+) = #ttg\.nvidia_mma<\{.*?warpsPerCTA = \[(\d+), (\d+)\], instrShape = \[(\d+), (\d+)", re.MULTILINE
)
_PRODUCT = re.compile(
    r" (?:tt\.dot|ttng\.warp_group_dot) .*? : \S*?<(\d+)x(\d+)x.*? \* .*? -> tensor<(\d+)x(\d+)x\w+, (#\w+)>"
)


@dataclass(frozen=True)
class Product:
    """Multiply-adds of one product of tiles, on the matrix units."""

    needed: int
    executed: int


def products(ttgir: str) -> list[Product]:
    """Those of a kernel's TTGIR, in its order; products by fused multiply-adds are none."""
    layouts = {name: tuple(map(int, sizes)) for name, *sizes in _LAYOUT.findall(ttgir)}
    found = []
    for *sizes, layout in _PRODUCT.findall(ttgir):
        rows, inner, out_rows, columns = map(int, sizes)
        if layout not in layouts or rows != out_rows:
            continue
        warps_down, warps_across, height, width = layouts[layout]
        executed = max(rows, warps_down * height) * max(columns, warps_across * width) * inner
        found.append(Product(rows * columns * inner, executed))
    return found


def redundancy(ttgir: str) -> float:
    """Executed multiply-adds over the needed ones, of the kernel's worst product; 1 where it has none."""
    return max((p.executed / p.needed for p in products(ttgir)), default=1.0)
