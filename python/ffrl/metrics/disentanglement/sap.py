"""The separated attribute predictability score."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import balanced_accuracy_score
from sklearn.tree import DecisionTreeClassifier

from ffrl.metrics.disentanglement.codes import Codes, Factors, check, gap_of_best_two, split_rows

MOST_ROWS = 10_000


@dataclass(frozen=True)
class SAP:
    """score: the mean of gaps. gaps: (F,), of each factor."""

    score: float
    gaps: tuple[float, ...]


def sap(
    codes: ArrayLike,
    factors: ArrayLike,
    *,
    categorical: Collection[int] = (),
    held_out: float = 0.5,
    most_rows: int = MOST_ROWS,
    seed: int = 0,
) -> SAP:
    """Separated attribute predictability (Kumar, Sattigeri, Balakrishnan 2018, arXiv 1711.00848, section 3).

        SAP = 1/F Σ_k (S_ak − S_bk),   a and b the best and the second best dimension for factor k

    S_dk says how well dimension d alone predicts factor k. For a factor whose values are ordered: R² of a line, the
    squared correlation over all rows. For one named in `categorical`: thresholds on the dimension, one leaf a class,
    fitted with equal weight for every class (a tree grown by Gini impurity), and the balanced accuracy on held-out
    rows.

    Range [0, 1]; of a factor of C classes at most 1 − 1/C, for a dimension that knows nothing still guesses 1/C.
    One dimension a factor, up to permutation, scale and sign: 1 (1 − 1/C). Random codes: about 0. Two factors turned by
    45° into each other: 0. A dimension that is a curved function of its factor scores below 1 unless the factor is
    named categorical; an angle (hue, orientation) is not a line.

    Args:
        codes: (N, D) real, D ≥ 2. factors: (N, F) integer, no factor constant.
        categorical: the factors, by number, whose values have no order.
        held_out, most_rows, seed: of the split that categorical factors are scored on: at most `most_rows` rows are
            drawn, which bounds the D fits of one dimension each (measured at D = 324: 5 s a factor of ten values).
    """
    data = check(codes, factors)
    count = data.factors.shape[1]
    for k in categorical:
        if not 0 <= k < count:
            raise ValueError(f"categorical: expected factors 0 … {count - 1}, found {k}")
    scores = squared_correlation(data.codes, data.factors)
    split = split_rows(len(data.codes), held_out, most_rows, np.random.default_rng(seed)) if categorical else None
    for k in categorical:
        assert split is not None
        fit, score = data.factors[split.fit, k], data.factors[split.score, k]
        if not np.array_equal(np.unique(fit), np.unique(score)):
            raise ValueError(f"factors: expected every value of factor {k} on both sides of the split, found others")
        for d in range(data.codes.shape[1]):
            column = data.codes[:, d : d + 1]
            scores[d, k] = _threshold_accuracy(column[split.fit], fit, column[split.score], score)
    gaps = gap_of_best_two(scores)
    return SAP(float(gaps.mean()), tuple(gaps.tolist()))


def squared_correlation(codes: Codes, factors: Factors) -> NDArray[np.float64]:
    """(D, F): R² of a line through (code, factor); 0 for a constant dimension."""
    x = codes - codes.mean(axis=0)
    y = factors - factors.mean(axis=0)
    # Scaled before they are squared: codes of any size neither overflow nor vanish.
    largest = np.abs(x).max(axis=0)
    # A constant column leaves rounding errors of its mean, which must not be taken for a code.
    moves = np.ptp(codes, axis=0) > 0
    x = x / np.where(moves, largest, 1.0)
    spread = np.outer((x * x).sum(axis=0), (y * y).sum(axis=0))
    square: NDArray[np.float64] = np.where(moves[:, None], (x.T @ y) ** 2 / np.where(spread > 0, spread, 1.0), 0.0)
    return square


def _threshold_accuracy(fit_codes: Codes, fit: NDArray[np.int64], codes: Codes, truth: NDArray[np.int64]) -> float:
    tree = DecisionTreeClassifier(max_leaf_nodes=len(np.unique(fit)), class_weight="balanced", random_state=0)
    tree.fit(fit_codes, fit)
    return float(balanced_accuracy_score(truth, tree.predict(codes)))
