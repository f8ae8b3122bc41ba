"""The one table of error bounds, read by the tests and the benchmarks.

Errors are relative in norm: ‖x − exact‖ / ‖exact‖, with the exact value computed in float64.
"""

from __future__ import annotations

import torch

#: Native float64 against the oracle. The operators are about a hundred roundings deep, sums over rows at most 10⁵ long.
FLOAT64_AGAINST_ORACLE = 1e-10

#: Native float32 may err at most this many times as much as plain eager torch does at float32 on the same inputs …
FLOAT32_TIMES_EAGER = 3.0

#: … or by these few roundings of the result, since eager may be exact by luck (a single row, a single feature).
FLOAT32_FLOOR = 4 * torch.finfo(torch.float32).eps

#: ∇u and ∂_t u against central differences of the returned u, float64, steps of 10⁻⁶ of a unit: truncation h² and
#: cancellation eps/h both stay below.
FINITE_DIFFERENCE = 1e-7


#: Products whose operands are rounded to 11 or to 8 significant bits, four or more of them in a row: results and
#: gradients of the GPU backends in "tf32" and "bf16" against float64.
TF32_PRODUCTS = 4e-3
BF16_PRODUCTS = 3e-2


def relative_error(found: torch.Tensor, exact: torch.Tensor) -> float:
    """‖found − exact‖ / ‖exact‖ in float64; the absolute error where the exact value is zero."""
    found, exact = found.detach().double(), exact.detach().double()
    if found.shape != exact.shape:
        raise ValueError(f"shapes differ: {tuple(found.shape)} and {tuple(exact.shape)}")
    if found.numel() == 0:
        return 0.0
    norm, error = float(exact.norm()), float((found - exact).norm())
    return error / norm if norm > 0 else error
