"""Disentanglement scores against hand-worked cases and what their definitions say of ideal codes."""

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import entropy
from sklearn.metrics import mutual_info_score

from ffrl.metrics.disentanglement import dci, factor_vae_score, mig, sampler_of, sap
from ffrl.metrics.disentanglement.codes import split_rows
from ffrl.metrics.disentanglement.dci import concentration
from ffrl.metrics.disentanglement.mig import discretise, mutual_information
from ffrl.metrics.disentanglement.sap import squared_correlation

SIZES = (5, 6, 4)


@pytest.fixture(scope="module")
def factors() -> NDArray[np.int64]:
    """Every combination of three factors, 16 times: exactly independent, every value equally frequent."""
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in SIZES), indexing="ij"), axis=-1).reshape(-1, len(SIZES))
    return np.tile(grid, (16, 1))


def standardised(factors: NDArray[np.int64]) -> NDArray[np.float64]:
    x: NDArray[np.float64] = (factors - factors.mean(0)) / factors.std(0)
    return x


def turned(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The first two dimensions turned by 45° into each other."""
    turn = np.eye(x.shape[1])
    turn[:2, :2] = np.array([[1, -1], [1, 1]]) / math.sqrt(2)
    out: NDArray[np.float64] = x @ turn.T
    return out


def perfect(kind: str, factors: NDArray[np.int64]) -> NDArray[np.float64]:
    x = standardised(factors)
    if kind == "permuted":
        return x[:, [2, 0, 1]]
    if kind == "scaled":
        return x * np.array([1e-3, 1.0, 1e4]) + np.array([5.0, -1.0, 0.0])
    if kind == "sign flipped":
        return x * np.array([-1.0, 1.0, -1.0])
    if kind == "dead dimensions":
        return np.concatenate([x[:, :2], np.full((len(x), 2), 0.25), x[:, 2:]], axis=1)
    return x


@pytest.mark.parametrize("kind", ["identity", "permuted", "scaled", "sign flipped", "dead dimensions"])
def test_perfect_codes(kind: str, factors: NDArray[np.int64]) -> None:
    codes = perfect(kind, factors)
    found = dci(codes, factors)
    assert found.disentanglement == pytest.approx(1)
    assert found.completeness == pytest.approx(1)
    assert found.informativeness == 1
    assert found.guessing < 0.3
    # Exactly independent factors: no other dimension knows anything of one.
    assert mig(codes, factors).score == pytest.approx(1)
    assert sap(codes, factors).score == pytest.approx(1)
    # A dimension that knows nothing still guesses one class of C.
    least = sap(codes, factors, categorical=range(3)).gaps
    assert least == pytest.approx([1 - 1 / n for n in SIZES], abs=0.06)
    votes = factor_vae_score(sampler_of(codes, factors), 3, dead_variance=0)
    assert (votes.score, votes.training, votes.active) == (1, 1, 3)


def test_codes_turned_by_45_degrees(factors: NDArray[np.int64]) -> None:
    """Two dimensions share two factors equally; the third factor stays clean."""
    two = np.stack([factors[:, 0], factors[:, 2] % 2 + 2 * (factors[:, 1] % 2)], axis=1)
    codes = turned(standardised(two))
    found = dci(codes, two)
    assert found.disentanglement < 0.1 and found.completeness < 0.1
    assert found.informativeness > 0.95
    assert mig(codes, two).score < 0.05
    # Each dimension is as well correlated with the one as with the other: R² = ½ both.
    assert squared_correlation(codes, two) == pytest.approx(np.full((2, 2), 0.5))
    assert sap(codes, two).score == pytest.approx(0, abs=1e-9)
    votes = factor_vae_score(sampler_of(codes, two), 2, dead_variance=0)
    assert votes.score == pytest.approx(0.5, abs=0.1)

    three = turned(standardised(factors))
    gaps = mig(three, factors).gaps
    assert gaps[0] < 0.1 and gaps[1] < 0.1 and gaps[2] == pytest.approx(1)


def test_random_codes(factors: NDArray[np.int64]) -> None:
    codes = np.random.default_rng(0).normal(size=(len(factors), 6))
    found = dci(codes, factors)
    assert found.disentanglement < 0.1 and found.completeness < 0.1
    assert found.informativeness < found.guessing + 0.1
    assert mig(codes, factors).score < 0.02
    assert sap(codes, factors).score < 0.02
    assert sap(codes, factors, categorical=range(3)).score < 0.06
    votes = factor_vae_score(sampler_of(codes, factors), 3)
    assert votes.score == pytest.approx(votes.guessing, abs=0.08)
    assert votes.guessing == pytest.approx(1 / 3)


def test_a_factor_held_twice(factors: NDArray[np.int64]) -> None:
    """Completeness, MIG and SAP ask for one dimension a factor; disentanglement and FactorVAE do not."""
    codes = np.tile(standardised(factors), 2)
    assert mig(codes, factors).score == pytest.approx(0, abs=1e-12)
    assert sap(codes, factors).score == pytest.approx(0, abs=1e-12)
    assert factor_vae_score(sampler_of(codes, factors), 3).score == 1
    found = dci(codes, factors)
    assert found.disentanglement == pytest.approx(1)
    # A forest splits the importance between equals, two of six dimensions.
    assert found.completeness == pytest.approx(1 - math.log(2) / math.log(6), abs=0.05)


def test_mig_by_hand() -> None:
    """v of two values, four rows each; H(v) = log 2.

    c_0 = v: I = log 2. c_1 tells the value of two of the eight rows apart: symbols a (3 rows of v = 0, 3 of v = 1),
    b (1 of v = 0), c (1 of v = 1): H(v|c_1) = 6/8 log 2, I = 2/8 log 2. c_2 is constant: I = 0.
    Gap (log 2 − ¼ log 2)/log 2 = ¾. Without c_0: ¼ − 0 = ¼.
    """
    v = np.array([[0], [0], [0], [0], [1], [1], [1], [1]])
    c1 = np.array([0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 2.0])
    codes = np.stack([v[:, 0].astype(float), c1, np.full(8, 7.0)], axis=1)
    assert mig(codes, v).score == pytest.approx(0.75)
    assert mig(codes[:, 1:], v).score == pytest.approx(0.25)
    # Two bins cut [0, 2] at 1: b and c fall together, symbols {a} and {b, c} with v half and half each: I = 0.
    assert mig(codes[:, 1:], v, bins=2).score == pytest.approx(0)


def test_bins_are_of_equal_width() -> None:
    """20 bins over [0, 10]: width ½, closed at the left, the greatest code in the last."""
    column = np.array([0.0, 0.49, 0.5, 4.99, 5.0, 9.5, 10.0])
    found = discretise(np.stack([column, -column], axis=1), 20)
    assert found[:, 0].tolist() == [0, 0, 1, 9, 10, 19, 19]
    # −column runs from −10: closed at the left there too.
    assert found[:, 1].tolist() == [19, 19, 19, 10, 10, 1, 0]
    np.testing.assert_array_equal(found[:, 0], np.clip(np.digitize(column, np.linspace(0, 10, 21)) - 1, 0, 19))


@pytest.mark.parametrize("scale", [0.1, 1 / 3, 7.3])
def test_bins_do_not_depend_on_the_scale(scale: float) -> None:
    """Codes on the edges of bins, where rounding could push them to either side."""
    grid = np.stack([np.arange(101.0), np.arange(101.0) % 21], axis=1)
    np.testing.assert_array_equal(discretise(scale * grid + 0.7, 20), discretise(grid, 20))


def test_fewer_bins_than_values_cost_mig() -> None:
    """40 values in 20 bins: a perfect code tells log 20 of log 40."""
    v = np.tile(np.arange(40), 5)[:, None]
    codes = np.stack([v[:, 0], np.zeros(200)], axis=1)
    assert mig(codes, v).score == pytest.approx(math.log(20) / math.log(40))
    assert mig(codes, v, bins=40).score == pytest.approx(1)


@settings(max_examples=30)
@given(st.integers(2, 80), st.integers(2, 6), st.integers(2, 5), st.integers(0, 2**16))
def test_mutual_information_is_scikit_learns(rows: int, bins: int, values: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    symbols, v = rng.integers(bins, size=(rows, 2)), rng.integers(values, size=(rows, 1))
    information, of_v = mutual_information(symbols, v, bins)
    for d in range(2):
        assert information[d, 0] == pytest.approx(mutual_info_score(symbols[:, d], v[:, 0]), abs=1e-12)
    assert of_v[0] == pytest.approx(entropy(np.bincount(v[:, 0])), abs=1e-12)


def test_sap_by_hand() -> None:
    """v = 0, 1, 2, 3. c_0 = −v: R² = 1. c_1 = (0, 1, 1, 0): uncorrelated, 0. c_2 = (0, 0, 1, 1), correlation with v:
    Σ(v − 1.5)(c − ½) = 2, Σ(v − 1.5)² = 5, Σ(c − ½)² = 1, R² = 4/5. Gap 1 − 4/5 = 1/5; without c_0 4/5 − 0.
    """
    v = np.array([[0], [1], [2], [3]])
    codes = np.array([[0.0, 0, 0], [-1, 1, 0], [-2, 1, 1], [-3, 0, 1]])
    assert squared_correlation(codes, v)[:, 0] == pytest.approx([1, 0, 0.8])
    assert sap(codes, v).score == pytest.approx(0.2)
    assert sap(codes[:, 1:], v).score == pytest.approx(0.8)


def test_sap_of_classes_by_hand() -> None:
    """Three classes. c_0 keeps them apart: 1. c_1 joins the classes 1 and 2, and its one threshold tells class 0 from
    them: of the balanced classes 0 is right and one of the two others, 2/3. Gap 1/3. As a line, class order matters:
    c_0 in the order 1, 0, 2 has R² 1/4.
    """
    v = np.repeat([0, 1, 2], 40)[:, None]
    c0 = np.array([1.0, 0.0, 2.0])[v[:, 0]]
    c1 = np.array([0.0, 5.0, 5.0])[v[:, 0]]
    codes = np.stack([c0, c1], axis=1)
    assert sap(codes, v, categorical=[0]).score == pytest.approx(1 / 3)
    assert squared_correlation(codes, v)[:, 0] == pytest.approx([0.25, 0.75])


def test_sap_weighs_classes_equally() -> None:
    """Of 90 rows of class 0 and 10 of class 1 a useless dimension scores ½, not 0.9: the gap of a perfect one is ½."""
    v = np.repeat([0, 1], [900, 100])[:, None]
    codes = np.stack([v[:, 0], np.zeros(1000)], axis=1)
    assert sap(codes, v, categorical=[0]).score == pytest.approx(0.5)


def test_sap_fits_classes_with_equal_weight() -> None:
    """900 rows of class 0, a third of them with the code of all 100 rows of class 1. Weighed equally that code means
    class 1 (1 against 1/3), right for (2/3 + 1)/2 = 5/6; unweighed it would mean class 0, of which there are more.
    """
    v = np.repeat([0, 1], [900, 100])[:, None]
    code = np.repeat([0.0, 1.0], [600, 400])
    codes = np.stack([code, np.zeros(1000)], axis=1)
    assert sap(codes, v, categorical=[0]).score == pytest.approx(5 / 6 - 1 / 2, abs=0.03)


def test_concentration_by_hand() -> None:
    """Rows (1, 0), (½, ½), (0, 0), base 2: 1 − H = 1, 0, −; weights ½, ½, 0: ½. Transposed, columns of three,
    (1, ½, 0)·⅔ and (0, ½, 0)·2: H_3 = (log 3 − ⅔ log 2)/log 3 = 0.5794, 0; weights ¾, ¼: ¾·0.4206 + ¼ = 0.5655.
    """
    importance = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 0.0]])
    assert concentration(importance) == pytest.approx(0.5)
    assert concentration(importance.T) == pytest.approx(0.75 * (2 / 3) * math.log(2) / math.log(3) + 0.25)
    assert concentration(np.zeros((3, 2))) == 0


def test_dci_by_boosting(factors: NDArray[np.int64]) -> None:
    found = dci(perfect("permuted", factors), factors, trees="boosting", most_rows=300)
    assert found.disentanglement > 0.99 and found.completeness > 0.99 and found.informativeness > 0.99
    assert np.argmax(found.importance, axis=0).tolist() == [1, 2, 0]


def test_dead_dimensions_do_not_vote(factors: NDArray[np.int64]) -> None:
    """The noise of collapsed dimensions, of variance 10⁻⁶, often varies less from one vote to another than a noisy code
    of the held factor; it must not be asked.
    """
    rng = np.random.default_rng(0)
    noisy = standardised(factors) + 0.7 * rng.normal(size=factors.shape)
    codes = np.concatenate([noisy, 1e-3 * rng.normal(size=(len(factors), 12))], axis=1)
    without = factor_vae_score(sampler_of(codes, factors), 3, rows=5)
    among = factor_vae_score(sampler_of(codes, factors), 3, rows=5, dead_variance=0)
    assert (without.active, among.active) == (3, 15)
    assert without.score > among.score + 0.15
    nothing = factor_vae_score(sampler_of(1e-3 * codes, factors), 3)
    assert (nothing.score, nothing.training, nothing.active) == (0, 0, 0)


def test_factor_vae_by_hand() -> None:
    """F = 3, D = 2. Holding factor 0 stills c_0, holding 1 or 2 stills c_1: whichever of the two c_1 was named for more
    often wins it, so of the new votes those of factor 0 and of the winner are right, 2 of 3.
    """
    still = {None: (1.0, 1.0), 0: (0.0, 1.0), 1: (1.0, 0.0), 2: (1.0, 0.0)}
    drawn: list[int | None] = []

    def sample(factor: int | None, rows: int, rng: np.random.Generator) -> NDArray[np.float64]:
        drawn.append(factor)
        return rng.normal(size=(rows, 2)) * np.array(still[factor])

    found = factor_vae_score(sample, 3, votes=300, held_out_votes=600, rows=8, seed=5)
    made, new = drawn[1:301], drawn[301:]
    winner = 1 if made.count(1) >= made.count(2) else 2
    assert found.training == pytest.approx((made.count(0) + made.count(winner)) / 300)
    assert found.score == pytest.approx((new.count(0) + new.count(winner)) / 600)
    assert found.score == pytest.approx(2 / 3, abs=0.06)
    assert found.score != pytest.approx(found.training, abs=1e-6)


def test_the_sampler_holds_one_factor(factors: NDArray[np.int64]) -> None:
    sample, rng = sampler_of(factors.astype(float), factors), np.random.default_rng(0)
    for factor in range(3):
        held = np.asarray(sample(factor, 200, rng))
        assert [len(np.unique(column)) for column in held.T] == [1 if d == factor else SIZES[d] for d in range(3)]
    assert [len(np.unique(column)) for column in np.asarray(sample(None, 400, rng)).T] == list(SIZES)


@settings(max_examples=10)
@given(st.permutations(range(4)), st.lists(st.sampled_from([-8.0, -1.0, 0.5, 1.0, 32.0]), min_size=4, max_size=4))
def test_order_scale_and_sign_of_dimensions_do_not_matter(order: list[int], scale: list[float]) -> None:
    """Random, partly informative codes. Powers of two scale without rounding; a flipped sign moves bin edges, so MIG,
    whose bins are closed at the left, is asked with positive scales.
    """
    rng = np.random.default_rng(1)
    factors = np.stack([rng.integers(n, size=300) for n in (3, 4)], axis=1)
    codes = np.round(np.concatenate([factors + rng.normal(size=(300, 2)), rng.normal(size=(300, 2))], axis=1), 3)
    changed, positive = codes[:, order] * scale, codes[:, order] * np.abs(scale)
    assert mig(positive, factors).score == pytest.approx(mig(codes, factors).score, abs=1e-9)
    assert sap(changed, factors).score == pytest.approx(sap(codes, factors).score, abs=1e-9)
    # A tree's threshold lies between two codes, wherever they are; on equal gains it takes the first that it meets.
    assert sap(changed, factors, categorical=[0]).score == pytest.approx(
        sap(codes, factors, categorical=[0]).score, abs=0.05
    )
    one, other = (
        factor_vae_score(sampler_of(c, factors), 2, votes=50, held_out_votes=50, dead_variance=0)
        for c in (codes, changed)
    )
    assert one.score == pytest.approx(other.score)
    mine, its = dci(codes, factors), dci(changed, factors)
    # The trees break ties by the order of dimensions.
    assert mine.disentanglement == pytest.approx(its.disentanglement, abs=0.05)
    assert mine.completeness == pytest.approx(its.completeness, abs=0.05)
    assert mine.informativeness == pytest.approx(its.informativeness, abs=0.15)


def test_the_seed_decides_everything(factors: NDArray[np.int64]) -> None:
    codes = standardised(factors) + np.random.default_rng(0).normal(size=factors.shape)
    assert dci(codes, factors, seed=5) == dci(codes, factors, seed=5)
    assert dci(codes, factors, seed=5).importance != dci(codes, factors, seed=6).importance
    sample = sampler_of(codes, factors)
    assert factor_vae_score(sample, 3, seed=5) == factor_vae_score(sample, 3, seed=5)
    one, same = (sap(codes, factors, categorical=[0], seed=5) for _ in range(2))
    assert one == same != sap(codes, factors, categorical=[0], seed=6)


def test_wide_codes(factors: NDArray[np.int64]) -> None:
    """D = 324, three dimensions of which hold the factors."""
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(len(factors), 324))
    codes[:, [7, 100, 300]] = standardised(factors)
    found = dci(codes, factors, most_rows=1000)
    assert found.disentanglement > 0.9 and found.completeness > 0.9 and found.informativeness > 0.95
    assert np.argmax(found.importance, axis=0).tolist() == [7, 100, 300]
    assert mig(codes, factors).score > 0.9
    assert sap(codes, factors).score > 0.95
    assert factor_vae_score(sampler_of(codes, factors), 3, votes=100, held_out_votes=100).score == 1


def test_no_more_rows_than_asked_for() -> None:
    split = split_rows(1000, 0.25, 100, np.random.default_rng(0))
    assert (len(split.fit), len(split.score)) == (75, 25)
    assert len(set(split.fit.tolist()) | set(split.score.tolist())) == 100


CODES, FACTORS = np.random.default_rng(0).normal(size=(12, 2)), np.arange(24).reshape(12, 2) % 3


@pytest.mark.parametrize(
    ("codes", "factors", "message"),
    [
        (CODES[:, 0], FACTORS, r"codes: expected shape \(N, D\) with N ≥ 2 and D ≥ 2, found \(12,\)"),
        (CODES[:, :1], FACTORS, r"codes: expected shape \(N, D\) .* found \(12, 1\)"),
        (CODES * np.nan, FACTORS, "codes: expected finite numbers"),
        (CODES + 1j, FACTORS, "codes: expected real numbers, found complex128"),
        (CODES, FACTORS[:5], r"factors: expected shape \(12, F\) with F ≥ 1, found \(5, 2\)"),
        (CODES, FACTORS.astype(float), "factors: expected integers, found float64"),
        (CODES, FACTORS * [[1, 0]], "factors: expected at least two values of factor 1, found only 0"),
    ],
)
def test_unusable_codes_are_refused(codes: NDArray[np.float64], factors: NDArray[np.int64], message: str) -> None:
    for score in (dci, mig, sap):
        with pytest.raises((ValueError, TypeError), match=message):
            score(codes, factors)
    with pytest.raises((ValueError, TypeError), match=message):
        sampler_of(codes, factors)


def test_unusable_settings_are_refused() -> None:
    sample = sampler_of(CODES, FACTORS)
    for call, message in (
        (lambda: dci(CODES, FACTORS, trees="oak"), "trees: expected 'forest' or 'boosting', found 'oak'"),  # type: ignore[arg-type]
        (lambda: dci(CODES, FACTORS[:, :1]), "factors: expected at least two, to be told apart, found 1"),
        (lambda: dci(CODES, FACTORS, held_out=1.0), r"held_out: expected a share in \(0, 1\), found 1.0"),
        (lambda: dci(CODES, FACTORS, most_rows=1), "held_out: expected rows on both sides"),
        (lambda: mig(CODES, FACTORS, bins=1), "bins: expected at least 2, found 1"),
        (lambda: sap(CODES, FACTORS, categorical=[2]), "categorical: expected factors 0 … 1, found 2"),
        (lambda: sap(CODES, np.arange(24).reshape(12, 2), categorical=[0]), "every value of factor 0 on both sides"),
        (lambda: factor_vae_score(sample, 1), "num_factors: expected at least 2, found 1"),
        (lambda: factor_vae_score(sample, 2, rows=1), "rows: expected at least 2, found 1"),
        (lambda: factor_vae_score(sample, 2, votes=0), "votes: expected at least 1, found 0"),
        (lambda: factor_vae_score(sample, 2, dead_variance=-1), "dead_variance: expected at least 0, found -1"),
    ):
        with pytest.raises(ValueError) as error:
            call()
        assert re.search(message, str(error.value)), str(error.value)
