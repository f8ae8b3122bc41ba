"""The demo's product for a draw of its operands, and what it should be. Also run under sanitizers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cuda_host import Emulation, Traffic

SOURCE = Path(__file__).with_name("demo.cu")
TILE, CHUNK = 32, 16  # rows of a block, words of a stage
#: Of the largest entry: tf32 operands are truncated; bf16 numbers are exact, their sums are rounded at each step.
TOLERANCE = {False: 2e-3, True: 1e-5}


@dataclass
class Product:
    """C (rows, columns) = A Bᵀ and the sums of its rows in each block's columns."""

    c: np.ndarray
    row_sums: np.ndarray
    error: float
    traffic: dict[str, Traffic]


def run(library: Emulation, bf16: bool, rows: int, columns: int, inner: int, seed: int = 0) -> Product:
    """The product in the library; error: largest difference from float64, of the largest entry; NaN counts as inf."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((n, inner), dtype=np.float32) for n in (rows, columns))
    a_words, b_words, a_values, b_values = a, b, a.astype(np.float64), b.astype(np.float64)
    if bf16:
        a_words, b_words = ((x.view(np.uint32) >> 16).astype(np.uint16) for x in (a, b))
        a_values, b_values = (
            (x.astype(np.uint32) << 16).view(np.float32).astype(np.float64) for x in (a_words, b_words)
        )
    blocks = -(-columns // TILE)
    c, row_sums = np.full((rows, columns), np.nan, np.float32), np.full((rows, blocks), np.nan, np.float32)
    words = inner // 2 if bf16 else inner
    with library.watch(seed, a=a_words, b=b_words, c=c, row_sums=row_sums) as traffic:
        library.call("demo_product", bf16, a_words, b_words, c, row_sums, rows, columns, words)
    exact = a_values @ b_values.T
    padded = np.pad(exact, ((0, 0), (0, blocks * TILE - columns))).reshape(rows, blocks, TILE)
    errors = [
        np.abs(c - exact).max() / np.abs(exact).max(),
        np.abs(row_sums - padded.sum(2)).max() / np.abs(padded).sum(2).max(),
    ]
    return Product(c, row_sums, float(np.nan_to_num(errors, nan=np.inf).max()), traffic)


def run_once(path: str, seed: int = 0) -> None:
    """Both types in a library at ``path``, whatever the result."""
    library = Emulation(Path(path))
    for bf16 in (False, True):
        run(library, bf16, 45, 70, 104, seed)
