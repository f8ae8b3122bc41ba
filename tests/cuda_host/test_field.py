"""The CUDA kernels as operators on rows, emulated on the host, against the reference in float64."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from cuda_kernels import RESIDENT, STREAMED, Case, Question, by_emulation, check, wrong
from ffrl_fast.gpu.engine import Precision, Wanted

# Sizes at which something changes: one element, an odd width, more rows than a tile, a whole tile, a second warp tile.
RESIDENT_CASES = [
    Case(1, 1, 1),
    Case(17, 24, 40),
    Case(37, 24, 40, precision=Precision.TF32),
    Case(37, 24, 40, precision=Precision.BF16),
    Case(48, 64, 64, precision=Precision.TF32),
    Case(16, 128, 128, precision=Precision.BF16),
    Case(1, 1, 1, precision=Precision.BF16, out_activation="identity"),
    Case(20, 130, 232, precision=Precision.BF16, residual=False),
    Case(21, 70, 9, networks=3, selection="index", precision=Precision.TF32),
    Case(21, 9, 70, row_times=True, conditioned=True, precision=Precision.TF32),
    Case(20, 3, 70, row_times=True, out_activation="identity"),
    Case(37, 24, 40, depth=2, networks=3, selection="index"),
    Case(37, 40, 24, networks=3, selection="index", row_times=True, conditioned=True),
    Case(37, 24, 40, depth=2, networks=2, selection="gates", row_times=True),
    Case(21, 24, 33, networks=3, selection="gates", conditioned=False, residual=False),
    Case(21, 24, 33, depth=3, networks=2),
    Case(37, 24, 40, depth=2, residual=False, value_only=True),
    Case(19, 24, 40, networks=2, selection="gates", residual=False, value_only=True),
    Case(19, 24, 40, depth=2, networks=2, selection="gates", tangent=True),
    Case(19, 24, 40, out_activation="identity", tangent=True),
]
STREAMED_CASES = [
    Case(70, 24, 40, precision=Precision.TF32, shared_bytes=STREAMED),
    Case(70, 40, 130, depth=2, networks=2, selection="index", shared_bytes=STREAMED),
    Case(65, 130, 40, networks=2, selection="gates", row_times=True, shared_bytes=STREAMED),
    Case(30, 24, 40, depth=2, residual=False, value_only=True, shared_bytes=STREAMED),
    Case(30, 24, 40, depth=2, tangent=True, shared_bytes=STREAMED),
    Case(30, 226, 226, precision=Precision.BF16),
]


@pytest.mark.parametrize("case", RESIDENT_CASES, ids=str)
def test_weights_in_shared_memory(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("case", STREAMED_CASES, ids=str)
def test_weights_streamed(case: Case) -> None:
    check(case)


def test_more_tiles_than_blocks() -> None:
    check(Case(17_000, 3, 4))


def test_more_tiles_than_a_launch_takes() -> None:
    """With many networks a launch takes one streamed tile of each."""
    case = Case(140, 5, 6, networks=132, selection="index", shared_bytes=STREAMED)
    question = Question(case)
    assert question.index is not None
    question.index[5:135] = 3
    exact, found = question.exact(), by_emulation(question)
    assert wrong(found, exact, case.precision) == {}


@pytest.mark.parametrize(
    "wanted", [Wanted(z=False), Wanted(theta=False, gates=False), Wanted(False, False, True, False, False)], ids=str
)
def test_only_what_is_wanted_is_computed(wanted: Wanted) -> None:
    question = Question(Case(20, 24, 40, networks=2, selection="gates"))
    everything = by_emulation(question)
    found = by_emulation(question, wanted=wanted)
    for name, want in wanted._asdict().items():
        assert (f"d_{name}" in found) == want
        assert not want or torch.equal(found[f"d_{name}"], everything[f"d_{name}"])


@pytest.mark.parametrize("shared_bytes", [RESIDENT, STREAMED])
def test_the_same_bits_in_every_order_of_warps_and_blocks(shared_bytes: int) -> None:
    question = Question(Case(70, 24, 40, networks=2, selection="index", shared_bytes=shared_bytes))
    first, second = by_emulation(question, seed=1), by_emulation(question, seed=2)
    for name, x in first.items():
        assert torch.equal(x, second[name]), name


@pytest.mark.parametrize("shared_bytes", [RESIDENT, STREAMED])
def test_a_row_that_is_not_finite_leaves_the_others_alone(shared_bytes: int) -> None:
    question = Question(Case(20, 24, 40, shared_bytes=shared_bytes))
    clean = by_emulation(question)
    question.inputs["z"][5, 3] = torch.nan
    found = by_emulation(question)
    others = torch.arange(20) != 5
    for name in ("u", "dt", "grad", "residual", "d_z"):
        assert found[name][5].isnan().any(), name
        assert torch.equal(found[name][others], clean[name][others]), name


def test_rows_need_only_unit_stride() -> None:
    question = Question(Case(20, 24, 40))
    expected = by_emulation(question)
    wide = torch.full((20, 30), torch.nan)
    wide[:, 3:27] = question.inputs["z"]
    question.inputs["z"] = wide[:, 3:27]
    for name, x in by_emulation(question).items():
        assert torch.equal(x, expected[name]), name


def test_no_rows() -> None:
    for moments in (0, 2):
        question = Question(Case(0, 24, 40, networks=2, selection="index", moments=moments))
        found = by_emulation(question)
        assert found["u"].numel() == 0
        assert not found["d_theta"].any() and not found["d_tau"].any()


def test_a_launch_that_fails_raises() -> None:
    question = Question(dataclasses.replace(Case(20, 24, 40), shared_bytes=1024))
    with pytest.raises(RuntimeError, match="invalid argument"):
        by_emulation(question)


@pytest.mark.parametrize("selection", ["potential", "gates"])
def test_tangents_of_streamed_tiles_go_to_their_own_buffers(selection: Any) -> None:
    """Several tiles in one launch: what one block writes no other block has room at."""
    check(Case(150, 40, 150, networks=2, selection=selection, tangent=True, shared_bytes=STREAMED))
