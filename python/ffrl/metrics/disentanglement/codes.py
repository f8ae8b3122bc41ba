"""Codes and the factors behind them: what every disentanglement score is asked about."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Codes = NDArray[np.float64]
Factors = NDArray[np.int64]


class LabelledCodes(NamedTuple):
    """codes (N, D) float64, N representations of D dimensions; factors (N, F) int64, the values behind each."""

    codes: Codes
    factors: Factors


class Split(NamedTuple):
    """Rows to fit on and rows to score on, disjoint, int64."""

    fit: NDArray[np.int64]
    score: NDArray[np.int64]


def check(codes: ArrayLike, factors: ArrayLike) -> LabelledCodes:
    """codes (N, D) real and factors (N, F) integer as arrays: N ≥ 2, D ≥ 2, F ≥ 1.

    Raises:
        ValueError, TypeError: naming the argument; also for a code that is not finite, and for a factor of one value
            only, about which no code can tell anything.
    """
    checked = check_codes(codes)
    known = np.asarray(factors)
    if known.ndim != 2 or len(known) != len(checked) or known.shape[1] == 0:
        raise ValueError(f"factors: expected shape ({len(checked)}, F) with F ≥ 1, found {known.shape}")
    if known.dtype.kind not in "iu":
        raise TypeError(f"factors: expected integers, found {known.dtype}")
    for k in range(known.shape[1]):
        if (known[:, k] == known[0, k]).all():
            raise ValueError(f"factors: expected at least two values of factor {k}, found only {known[0, k]}")
    return LabelledCodes(checked, known.astype(np.int64))


def check_codes(codes: ArrayLike) -> Codes:
    """codes (N, D) as float64: N ≥ 2 and D ≥ 2, all finite."""
    found = np.asarray(codes)
    if found.ndim != 2 or found.shape[0] < 2 or found.shape[1] < 2:
        raise ValueError(f"codes: expected shape (N, D) with N ≥ 2 and D ≥ 2, found {found.shape}")
    if found.dtype.kind not in "iuf":
        raise TypeError(f"codes: expected real numbers, found {found.dtype}")
    found = found.astype(np.float64)
    if not np.isfinite(found).all():
        raise ValueError("codes: expected finite numbers, found NaN or infinity")
    return found


def split_rows(count: int, held_out: float, most: int, rng: np.random.Generator) -> Split:
    """Draw at most `most` of `count` rows without replacement; the share `held_out` of them is to score on."""
    if not 0 < held_out < 1:
        raise ValueError(f"held_out: expected a share in (0, 1), found {held_out!r}")
    rows = rng.permutation(count)[:most]
    scored = round(held_out * len(rows))
    if not 0 < scored < len(rows):
        raise ValueError(f"held_out: expected rows on both sides of the split, found {scored} of {len(rows)} held out")
    return Split(rows[scored:], rows[:scored])


def gap_of_best_two(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """(D, F) → (F,): by how much the best dimension of each factor is ahead of the second best."""
    ordered = np.sort(scores, axis=0)
    gap: NDArray[np.float64] = ordered[-1] - ordered[-2]
    return gap
