"""The roofline on paper: operations and bytes a row, counted from the algorithm, against what chips do for each byte.

Bytes are those from and to the device's memory. Weights are read from it once a launch and then come from L2,
once a block of rows; they are not in the count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

#: Operations a second of the matrix units, dense, and bytes a second of memory, by NVIDIA's data sheets (SXM, 80 GB).
CHIPS = {
    "H100": {"tf32": 494.7e12, "bf16": 989.4e12, "memory": 3.35e12},
    "A100": {"tf32": 156e12, "bf16": 312e12, "memory": 2.039e12},
}
_KEPT_ABOVE = 128  # D from which the Triton engine keeps a, c and v for the backward


@dataclass(frozen=True)
class Kernel:
    """Operations and bytes of one row of a network with H = D and one hidden layer; ``element`` bytes an operand."""

    name: str
    operations: Callable[[int], float]
    bytes: Callable[[int, int], float]


def _kept(d: int, element: int) -> float:
    return 3.0 * d * element if d > _KEPT_ABOVE else 0.0


KERNELS = (
    # z in; ∇u, u, ∂_t u and the residual out; four products.
    Kernel("forward", lambda d: 8.0 * d * d, lambda d, e: 8.0 * d + 12 + _kept(d, e)),
    # ḡ and z gathered, a, c, v in; seven factors and d_z out, one of them read again; eight products, but for two pairs
    # of them the weight gradient reads the factors: two reads of each.
    Kernel("backward of rows (Triton)", lambda d: 8.0 * d * d, lambda d, e: 12.0 * d + (2 + 3 + 8) * d * e),
    Kernel("weight gradients", lambda d: 8.0 * d * d, lambda d, e: 8.0 * d * e),
    # z_i + 1, u and ∂_t u out; z never comes back in.
    Kernel("path, one moment (CUDA)", lambda d: 8.0 * d * d, lambda d, e: 4.0 * d + 8),
)


def ridge(chip: str, precision: str) -> float:
    """Operations a byte at which a chip's matrix units and its memory are equally busy."""
    return CHIPS[chip][precision] / CHIPS[chip]["memory"]


def markdown(sizes: tuple[int, ...] = (64, 128, 324)) -> str:
    """The table."""
    ridges = {(c, p): ridge(c, p) for c in CHIPS for p in ("tf32", "bf16")}
    lines = [
        "Operations a byte of memory at which the matrix units are the limit: "
        + ", ".join(f"{c} {p} {x:.0f}" for (c, p), x in ridges.items())
        + ". Below that a kernel waits for memory, however well it multiplies.",
        "",
        "| kernel | D = H | products | operations a row | bytes a row | operations a byte | limit on H100 | on A100 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kernel in KERNELS:
        for d in sizes:
            for precision, element in (("tf32", 4), ("bf16", 2)):
                operations, moved = kernel.operations(d), kernel.bytes(d, element)
                intensity = operations / moved
                limits = [
                    "products"
                    if intensity > ridges[chip, precision]
                    else f"memory, {intensity / ridges[chip, precision]:.0%} of the products"
                    for chip in CHIPS
                ]
                lines.append(
                    f"| {kernel.name} | {d} | {precision} | {operations:,.0f} | {moved:,.0f} | {intensity:.0f} | "
                    f"{limits[0]} | {limits[1]} |"
                )
    return "\n".join(lines)
