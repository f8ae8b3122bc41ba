"""The FactorVAE score: which code dimension stays still when one factor is held?"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ffrl.metrics.disentanglement.codes import Codes, check, check_codes

#: sample(factor, rows, rng) → codes (rows, D) of rows that share one random value of `factor` and are random in all
#: others; with factor None, random in all.
Sampler = Callable[[int | None, int, np.random.Generator], ArrayLike]


@dataclass(frozen=True)
class FactorVAEScore:
    """score: accuracy of the majority vote on votes that it was not made from. training: on those it was made from.

    active: how many dimensions are not dead; with none the scores are 0. guessing: 1/F, what a code that knows nothing
    scores.
    """

    score: float
    training: float
    active: int
    guessing: float


def factor_vae_score(
    sample: Sampler,
    num_factors: int,
    *,
    votes: int = 800,
    held_out_votes: int = 800,
    rows: int = 64,
    variance_rows: int = 10_000,
    dead_variance: float = 0.01,
    seed: int = 0,
) -> FactorVAEScore:
    """FactorVAE score (Kim, Mnih 2018, arXiv 1802.05983).

    A vote: draw a factor k and `rows` codes which share its value; name the dimension d that varies least,
    argmin_d Var_rows(c_d) / Var(c_d). The classifier maps each d to the k it was named for most often; the score is how
    often it is right on new votes.

    Range [0, 1]. One dimension a factor, up to permutation, scale and sign: 1. Several dimensions a factor: 1 as well
    (completeness is not asked for). Random codes: about 1/F. Two factors turned by 45° into each other: about 1/2 of
    their votes, for either dimension varies half as much whichever is held. A code of a factor need only vary less than
    the others do: the score saturates at 1 for codes that DCI and MIG still tell from perfect ones.

    Args:
        sample: gives the codes, e.g. :func:`sampler_of`'s, or an encoder behind a renderer.
        num_factors: F ≥ 2.
        votes, held_out_votes: to make the classifier of, and to score it on.
        rows: of one vote, ≥ 2. variance_rows: that Var(c_d) is estimated from.
        dead_variance: dimensions whose variance is not above it are left out: a collapsed posterior's mean hardly
            moves, and the ratio of two noises would win the vote. In units of a prior of variance 1; give 0 for codes
            on another scale, and only constant dimensions are left out.
        seed: of everything random here; given to `sample` as a generator.

    Memory is that of max(rows, variance_rows) codes, time that of (votes + held_out_votes)·rows samples.
    """
    if num_factors < 2:
        raise ValueError(f"num_factors: expected at least 2, found {num_factors}")
    for name, number, least in (
        ("votes", votes, 1),
        ("held_out_votes", held_out_votes, 1),
        ("rows", rows, 2),
        ("variance_rows", variance_rows, 2),
    ):
        if number < least:
            raise ValueError(f"{name}: expected at least {least}, found {number}")
    if dead_variance < 0:
        raise ValueError(f"dead_variance: expected at least 0, found {dead_variance}")
    rng = np.random.default_rng(seed)
    variance = check_codes(sample(None, variance_rows, rng)).var(axis=0, ddof=1)
    active = variance > dead_variance
    if not active.any():
        return FactorVAEScore(0.0, 0.0, 0, 1 / num_factors)

    def ballots(count: int) -> NDArray[np.int64]:
        table = np.zeros((int(active.sum()), num_factors), dtype=np.int64)
        for factor in rng.integers(num_factors, size=count):
            codes = check_codes(sample(int(factor), rows, rng))
            local = codes[:, active].var(axis=0, ddof=1) / variance[active]
            table[local.argmin(), factor] += 1
        return table

    made, new = ballots(votes), ballots(held_out_votes)
    chosen = made.argmax(axis=1)
    dims = np.arange(len(chosen))
    return FactorVAEScore(
        score=float(new[dims, chosen].sum() / new.sum()),
        training=float(made[dims, chosen].sum() / made.sum()),
        active=len(chosen),
        guessing=1 / num_factors,
    )


def sampler_of(codes: ArrayLike, factors: ArrayLike) -> Sampler:
    """A sampler that draws, with replacement, from codes (N, D) and factors (N, F) that are there.

    The held value is that of a random row, so frequent values are held more often. A value of few rows gives repeated
    rows, whose variance is too small in every dimension alike: have far more rows than a vote.
    """
    data = check(codes, factors)
    rows_of = [
        {value: np.flatnonzero(column == value) for value in np.unique(column).tolist()} for column in data.factors.T
    ]

    def sample(factor: int | None, rows: int, rng: np.random.Generator) -> Codes:
        if factor is None:
            return data.codes[rng.integers(len(data.codes), size=rows)]
        value = int(data.factors[rng.integers(len(data.factors)), factor])
        return data.codes[rng.choice(rows_of[factor][value], size=rows)]

    return sample
