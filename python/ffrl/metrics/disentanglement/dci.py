"""Disentanglement, completeness and informativeness."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier

from ffrl.metrics.disentanglement.codes import check, split_rows

Trees = Literal["forest", "boosting"]

MOST_ROWS = 5_000
FOREST_TREES = 10
FOREST_DEPTH = 12


@dataclass(frozen=True)
class DCI:
    """disentanglement, completeness: in [0, 1]. informativeness: accuracy on held-out rows, mean over factors.

    guessing: the accuracy of always naming each factor's most frequent value, what informativeness must be above.
    importance: (D, F), R.
    """

    disentanglement: float
    completeness: float
    informativeness: float
    guessing: float
    importance: tuple[tuple[float, ...], ...]


def dci(
    codes: ArrayLike,
    factors: ArrayLike,
    *,
    trees: Trees = "forest",
    held_out: float = 1 / 3,
    most_rows: int = MOST_ROWS,
    seed: int = 0,
) -> DCI:
    """Disentanglement, completeness, informativeness (Eastwood, Williams 2018, openreview By-7dz-AZ, section 2).

    R_dk is the importance of dimension d for predicting factor k, from a classifier of trees, each column's sum 1:

        D = Σ_d ρ_d (1 − H_F(R_d· / Σ_k R_dk)),   ρ_d = Σ_k R_dk / ΣR      does a dimension serve one factor?
        C = Σ_k γ_k (1 − H_D(R_·k / Σ_d R_dk)),   γ_k = Σ_d R_dk / ΣR      is a factor held by one dimension?
        I = mean over factors of the accuracy on held-out rows              (the paper: the error, in its place)

    H_F and H_D are entropies to the base F and D. A dimension that serves no factor has weight 0 in D; a factor that no
    dimension serves at all (the classifier found no split) counts 0 in C and has weight 0 in D.

    Range [0, 1]. One dimension a factor, up to permutation, scale and sign: D = C = I = 1; every factor held by two
    dimensions of its own: D = 1, C < 1. Two factors turned by 45° into each other (D = F = 2): D and C about 0, I still
    high. Random codes: D and C near 0, and higher with few rows, I about that of guessing.

    Args:
        codes: (N, D) real, D ≥ 2. factors: (N, F) integer, F ≥ 2, none constant.
        trees: "forest": a random forest of 10 trees, every dimension a candidate at each split, so that a dimension
            without information is not chosen for want of a better one. "boosting": gradient boosted trees, as
            the published comparisons of the field take them.
        held_out: the share of the rows that I is scored on.
        most_rows: as many rows are drawn at most. With the forest's depth of at most 12 this bounds the time by
            F · trees · depth · D · rows·log(rows): measured at D = 324: 9 s a factor. Boosting fits a hundred trees for
            every value of a factor and is not for wide codes.
        seed: of the split and the trees.
    """
    if trees not in ("forest", "boosting"):
        raise ValueError(f"trees: expected 'forest' or 'boosting', found {trees!r}")
    data = check(codes, factors)
    dims, count = data.codes.shape[1], data.factors.shape[1]
    if count < 2:
        raise ValueError(f"factors: expected at least two, to be told apart, found {count}")
    split = split_rows(len(data.codes), held_out, most_rows, np.random.default_rng(seed))
    importance, accuracy, guessing = np.zeros((dims, count)), np.zeros(count), np.zeros(count)
    for k in range(count):
        fit, truth = data.factors[split.fit, k], data.factors[split.score, k]
        values, frequency = np.unique(fit, return_counts=True)
        if len(values) < 2:
            raise ValueError(f"factors: expected at least two values of factor {k} to fit on, found {len(values)}")
        model = _classifier(trees, seed)
        model.fit(data.codes[split.fit], fit)
        importance[:, k] = model.feature_importances_
        accuracy[k] = np.mean(model.predict(data.codes[split.score]) == truth)
        guessing[k] = np.mean(truth == values[frequency.argmax()])
    return DCI(
        disentanglement=concentration(importance),
        completeness=concentration(importance.T),
        informativeness=float(accuracy.mean()),
        guessing=float(guessing.mean()),
        importance=tuple(tuple(row) for row in importance.tolist()),
    )


def concentration(importance: NDArray[np.float64]) -> float:
    """(M, N), M rows of N ≥ 2 importances ≥ 0 → Σ_m ρ_m (1 − H_N(row m, normalised)), ρ_m the row's share of the sum.

    1 where every row that is not zero has one entry; 0 where rows are even, and where all is zero.
    """
    total = importance.sum()
    if total == 0:
        return 0.0
    sums = importance.sum(axis=1, keepdims=True)
    p = importance / np.where(sums > 0, sums, 1.0)
    entropy = -(p * np.log(np.where(p > 0, p, 1.0))).sum(axis=1) / np.log(importance.shape[1])
    return float((sums[:, 0] / total * (1 - entropy)).sum())


def _classifier(trees: Trees, seed: int) -> RandomForestClassifier | GradientBoostingClassifier:
    if trees == "forest":
        return RandomForestClassifier(FOREST_TREES, max_depth=FOREST_DEPTH, max_features=None, random_state=seed)
    return GradientBoostingClassifier(random_state=seed)
