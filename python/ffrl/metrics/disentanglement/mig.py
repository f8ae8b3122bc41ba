"""The mutual information gap."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ffrl.metrics.disentanglement.codes import Codes, Factors, check, gap_of_best_two

BINS = 20


@dataclass(frozen=True)
class MIG:
    """score: the mean of gaps. gaps: (F,), of each factor, in shares of its entropy."""

    score: float
    gaps: tuple[float, ...]


def mig(codes: ArrayLike, factors: ArrayLike, *, bins: int = BINS) -> MIG:
    """Mutual information gap (Chen, Li, Grosse, Duvenaud 2018, arXiv 1802.04942).

        MIG = 1/F Σ_k (I(c_a; v_k) − I(c_b; v_k)) / H(v_k)

    a and b the dimensions with the most and the second most information about factor k. I is the plug-in estimate, in
    nats, of codes discretised into `bins` bins of equal width between a dimension's smallest and greatest value.

    Range [0, 1]. One dimension a factor, up to permutation, scale and sign: 1 (where the bins keep the factor's values
    apart; fewer bins than values score less). Random codes: about 0; the plug-in estimate is biased upwards by some
    (bins − 1)(values − 1)/2N nats in every dimension, and the gap cancels most of it. Two factors turned by 45° into
    each other: 0. A factor that two dimensions hold alike: 0, however clean each of them is.

    Args:
        codes: (N, D) real, D ≥ 2. factors: (N, F) integer, no factor constant. bins: of each dimension.

    Costs D·F counts of N rows, each of a table of bins × values: D = 324 takes no care.
    """
    data = check(codes, factors)
    if bins < 2:
        raise ValueError(f"bins: expected at least 2, found {bins}")
    information, entropy = mutual_information(discretise(data.codes, bins), data.factors, bins)
    gaps = gap_of_best_two(information) / entropy
    return MIG(float(gaps.mean()), tuple(gaps.tolist()))


def discretise(codes: Codes, bins: int) -> NDArray[np.int64]:
    """(N, D) → the bin of each code, 0 … bins − 1, bins of equal width over each dimension's range, closed at the left
    (the last at both ends). A constant dimension falls into one bin.
    """
    low, width = codes.min(axis=0), np.ptp(codes, axis=0)
    position = (codes - low) / np.where(width > 0, width, 1.0)
    # Rounding first to a multiple of 2⁻⁴⁰ keeps a code that lies on an edge on the same side under any scaling.
    position = np.round(position * bins * 2.0**40) / 2.0**40
    found: NDArray[np.int64] = np.minimum(position.astype(np.int64), bins - 1)
    return found


def mutual_information(
    symbols: NDArray[np.int64], factors: Factors, bins: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """I(symbol_d; v_k) (D, F) and H(v_k) (F,), plug-in estimates in nats, of symbols (N, D) in 0 … bins − 1."""
    dims, count = symbols.shape[1], factors.shape[1]
    information, entropy = np.empty((dims, count)), np.empty(count)
    for k in range(count):
        values, index = np.unique(factors[:, k], return_inverse=True)
        size = bins * len(values)
        for d in range(dims):
            joint = np.bincount(symbols[:, d] * len(values) + index, minlength=size).reshape(bins, len(values))
            rows, columns = _entropy(joint.sum(1)), _entropy(joint.sum(0))
            information[d, k] = max(0.0, rows + columns - _entropy(joint))
        entropy[k] = _entropy(np.bincount(index))
    return information, entropy


def _entropy(counts: NDArray[np.int64]) -> float:
    """−Σ p log p in nats."""
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())
