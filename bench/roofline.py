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


@dataclass(frozen=True)
class Kernel:
    """Operations and bytes of one row of a network with H = D and one hidden layer; ``element`` bytes an operand."""

    name: str
    operations: Callable[[int], float]
    bytes: Callable[[int, int], float]


KERNELS = (
    # z and the drive in; ∇u, u, ∂_t u and the residual out; four products.
    Kernel("forward", lambda d: 8.0 * d * d, lambda d, e: 8.0 * d + 16),
    # a, c and v out too: of D > 128 in the forward, else once more in the backward.
    Kernel("forward for a backward (Triton)", lambda d: 8.0 * d * d, lambda d, e: 8.0 * d + 16 + 3 * d * e),
    # z, the cotangent of ∇u and the residual's share gathered into operands; ḡ, a, c, v in, d_a out and in, six factors
    # and dL/dz out; four products.
    Kernel("backward of rows (Triton)", lambda d: 8.0 * d * d, lambda d, e: 24.0 * d + (2 + 4 + 6) * d * e),
    # Each of the eight factors; four products.
    Kernel("weight gradients", lambda d: 8.0 * d * d, lambda d, e: 8.0 * d * e),
    # z_{i+1}, u and ∂_t u out; up to H = 128 z never comes back in.
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
