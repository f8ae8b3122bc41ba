"""The Triton engine, run by Triton's interpreter, against automatic differentiation through the reference."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")
from engine_cases import EngineCase, by_engine, by_reference, make, selections
from ffrl_fast import reference
from ffrl_fast.gpu.engine import Cotangents, Precision, Rows, Wanted
from ffrl_fast.tolerances import FLOAT32_FLOOR, FLOAT32_TIMES_EAGER, relative_error
from ffrl_fast.triton_kernels import TritonEngine

FLOAT64 = 1e-12
# Of the whole chain of roundings of operands to 11 and to 8 bits; one rounding is 5·10⁻⁴ and 4·10⁻³.
REDUCED = {Precision.TF32: 3e-3, Precision.BF16: 5e-2}
FUSED = EngineCase(40, 12, 33, networks=2)  # two blocks of rows, padded columns
LAYERED = EngineCase(40, 12, 20, depth=2, networks=2)


@pytest.fixture(autouse=True)
def _workspaces_start_as_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel reads without anybody having written it, spoils the result."""
    empty = torch.empty

    def poisoned(*args: Any, **options: Any) -> torch.Tensor:
        x = empty(*args, **options)
        return x.fill_(torch.nan) if x.is_floating_point() else x.fill_(2**30)

    monkeypatch.setattr(torch, "empty", poisoned)


def worst(found: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> tuple[float, str]:
    assert found.keys() == exact.keys()
    return max((relative_error(found[name], exact[name]), name) for name in exact)


def check(case: EngineCase, architecture: int = 80) -> None:
    inputs = make(case)
    found = by_engine(TritonEngine(architecture), inputs, Precision.IEEE)
    error, name = worst(found, by_reference(inputs))
    assert error < FLOAT64, (case, name, error)


@pytest.mark.parametrize("per_row_time", [False, True], ids=["one-time", "time-per-row"])
@pytest.mark.parametrize("base", [FUSED, LAYERED], ids=["fused", "layered"])
@pytest.mark.parametrize("selection", ["potential", "index", "gates"])
def test_float64(base: EngineCase, selection: Any, per_row_time: bool) -> None:
    check(dataclasses.replace(base, selection=selection, per_row_time=per_row_time))


@pytest.mark.parametrize("base", [FUSED, LAYERED], ids=["fused", "layered"])
@pytest.mark.parametrize("selection", ["potential", "index", "gates"])
def test_value_only(base: EngineCase, selection: Any) -> None:
    check(dataclasses.replace(base, selection=selection, value_only=True, per_row_time=selection == "index"))


@pytest.mark.parametrize("base", [FUSED, LAYERED], ids=["fused", "layered"])
@pytest.mark.parametrize(("selection", "per_row_time"), [("index", True), ("index", False), ("gates", True)])
def test_networks_that_share_their_conditioning(base: EngineCase, selection: Any, per_row_time: bool) -> None:
    check(
        dataclasses.replace(
            base, selection=selection, per_row_time=per_row_time, shared_conditioning=True, driven=False
        )
    )


@st.composite
def small_cases(draw: st.DrawFn) -> EngineCase:
    return EngineCase(
        rows=draw(st.sampled_from([0, 1, 2, 31, 33, 65])),
        dim=draw(st.integers(1, 70)),
        width=draw(st.integers(1, 70)),
        depth=draw(st.sampled_from([1, 1, 2, 3])),
        networks=draw(st.integers(1, 3)),
        selection=draw(st.sampled_from(["potential", "index", "gates"])),
        per_row_time=draw(st.booleans()),
        conditioned=draw(st.booleans()),
        out_activation=draw(st.sampled_from(["tanh", "identity"])),
        value_only=draw(st.booleans()),
        driven=draw(st.booleans()),
        seed=draw(st.integers(0, 2**16)),
    )


@settings(max_examples=5)
@given(case=small_cases())
@example(case=EngineCase(0, 5, 7, networks=2, selection="index"))
@example(case=EngineCase(1, 1, 1))
@example(case=EngineCase(3, 130, 9, selection="gates", networks=2))  # a is kept and passes through memory
def test_float64_of_drawn_shapes(case: EngineCase) -> None:
    check(case)


@pytest.mark.parametrize("architecture", [90, 120])
def test_float64_with_other_block_sizes(architecture: int) -> None:
    check(EngineCase(20, 40, 50, networks=2, selection="gates"), architecture)


@pytest.mark.parametrize("base", [FUSED, LAYERED, EngineCase(20, 130, 40)], ids=["fused", "layered", "wide"])
def test_float32_errs_no_more_than_eager(base: EngineCase) -> None:
    """Over several draws taken as one: in a few a scalar may come out exact by luck."""
    for case in selections(base)[2 if base.depth > 1 else 1 :]:
        drawn: dict[str, list[tuple[torch.Tensor, ...]]] = {}
        for seed in range(2):
            inputs = make(dataclasses.replace(case, seed=seed, rows=20), torch.float32)
            exact, eager = by_reference(inputs), by_reference(inputs, torch.float32)
            found = by_engine(TritonEngine(80), inputs, Precision.IEEE)
            for name in exact:
                drawn.setdefault(name, []).append((exact[name], eager[name], found[name]))
        for name, draws in drawn.items():
            exact_all, eager_all, found_all = (torch.stack(x) for x in zip(*draws, strict=True))
            bound = FLOAT32_TIMES_EAGER * relative_error(eager_all, exact_all) + FLOAT32_FLOOR
            assert relative_error(found_all, exact_all) <= bound, (case, name)


@pytest.mark.parametrize(("precision", "architecture"), [("tf32", 80), ("tf32", 90), ("bf16", 80)])
@pytest.mark.parametrize(
    "case",
    [
        dataclasses.replace(FUSED, selection="gates"),
        dataclasses.replace(LAYERED, selection="index", per_row_time=True),
        EngineCase(20, 135, 130),
    ],
    ids=["fused", "layered", "wide"],
)
def test_reduced_precisions(case: EngineCase, precision: str, architecture: int) -> None:
    inputs = make(case, torch.float32)
    error, name = worst(by_engine(TritonEngine(architecture), inputs, Precision(precision)), by_reference(inputs))
    assert 1e-5 < error < REDUCED[Precision(precision)], (name, error)


@pytest.mark.parametrize("case", selections(dataclasses.replace(FUSED, rows=9)), ids=lambda case: case.selection)
def test_bfloat16_tensors(case: EngineCase) -> None:
    inputs = make(case, torch.bfloat16)
    found = by_engine(TritonEngine(80), inputs, Precision.BF16)
    assert {x.dtype for x in found.values()} == {torch.bfloat16}
    error, name = worst(found, by_reference(inputs))
    assert error < REDUCED[Precision.BF16], (name, error)


@pytest.mark.parametrize(("selection", "depth"), [("potential", 1), ("index", 1), ("gates", 3)])
def test_hessian_times_a_tangent(selection: Any, depth: int) -> None:
    inputs = make(EngineCase(20, 7, 9, depth=depth, networks=2, selection=selection, per_row_time=True))
    rows = inputs.rows
    for keep, tangent in ((False, torch.randn_like(rows.z)), (True, torch.randn_like(rows.z[0]))):
        out = TritonEngine().forward(rows, Precision.IEEE, keep=keep, drive=inputs.drive, tangent=tangent)
        exact = reference.potential_field(
            rows.z,
            torch.zeros(1, dtype=torch.float64),
            rows.theta,
            rows.shape,
            rows.tau,
            rows.dtau,
            potential=rows.potential,
            index=rows.index,
            gates=rows.gates,
            tangent=tangent,
        )
        assert exact.hvp is not None and out.hvp is not None and out.residual is not None
        residual = reference.hj_residual(exact.dt, exact.grad, None) + inputs.drive
        for found, wanted in ((out.u, exact.u), (out.grad, exact.grad), (out.hvp, exact.hvp), (out.residual, residual)):
            assert relative_error(found, wanted) < FLOAT64


@pytest.mark.parametrize(
    "case",
    [dataclasses.replace(FUSED, rows=9, selection="index"), dataclasses.replace(LAYERED, rows=9)],
    ids=["fused", "layered"],
)
def test_only_what_is_wanted(case: EngineCase) -> None:
    inputs = make(case)
    everything = by_engine(TritonEngine(), inputs, Precision.IEEE)
    for name in ("theta", "dtau"):
        wanted = Wanted(**{x: x == name for x in Wanted._fields})
        found = by_engine(TritonEngine(), inputs, Precision.IEEE, wanted)
        assert {x for x in found if x.startswith("d_")} == {f"d_{name}"}
        assert torch.equal(found[f"d_{name}"], everything[f"d_{name}"])


@pytest.mark.parametrize("missing", ["u", "dt", "grad", "residual"])
def test_cotangents_that_are_zero_by_absence(missing: str) -> None:
    for case in (dataclasses.replace(FUSED, selection="gates", rows=9), dataclasses.replace(LAYERED, rows=9)):
        inputs = make(case)
        given_zero = inputs.cotangents._replace(**{missing: torch.zeros_like(getattr(inputs.cotangents, missing))})
        exact = by_reference(dataclasses.replace(inputs, cotangents=given_zero))
        out = TritonEngine().forward(inputs.rows, Precision.IEEE, keep=True, drive=inputs.drive)
        absent = inputs.cotangents._replace(**{missing: None})
        gradients = TritonEngine().backward(inputs.rows, Precision.IEEE, out, absent, Wanted())
        assert relative_error(gradients.z, exact["d_z"]) < FLOAT64
        assert relative_error(gradients.theta, exact["d_theta"]) < FLOAT64


@pytest.mark.parametrize(
    "case",
    [dataclasses.replace(FUSED, selection="index"), dataclasses.replace(LAYERED, selection="gates")],
    ids=["fused", "layered"],
)
def test_the_same_twice(case: EngineCase) -> None:
    inputs = make(case, torch.float32)
    first, second = (by_engine(TritonEngine(), inputs, Precision.TF32) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_rows_that_are_not_contiguous() -> None:
    inputs = make(dataclasses.replace(FUSED, selection="gates"))
    exact = by_reference(inputs)
    wide = torch.zeros(inputs.rows.z.shape[0], 50, dtype=torch.float64)
    wide[:, 7:19] = inputs.rows.z
    inputs.rows.z = wide[:, 7:19]
    assert worst(by_engine(TritonEngine(), inputs, Precision.IEEE), exact)[0] < FLOAT64


def test_a_row_of_nan_leaves_the_others_alone() -> None:
    for case in [dataclasses.replace(FUSED, selection="index"), LAYERED]:
        inputs = make(case)
        clean = by_engine(TritonEngine(), inputs, Precision.IEEE)
        inputs.rows.z[5, 3] = float("nan")
        found = by_engine(TritonEngine(), inputs, Precision.IEEE)
        others = torch.arange(case.rows) != 5
        for name in ("u", "dt", "grad", "residual", "d_z"):
            assert found[name][5].isnan().all(), name
            assert torch.equal(found[name][others], clean[name][others]), name
        assert found["d_theta"].isnan().any()


def test_what_is_kept() -> None:
    small, large = make(EngineCase(9, 128, 128)), make(EngineCase(9, 129, 100))
    engine = TritonEngine(80)
    assert engine.saved(small.rows, Precision.IEEE) == ()
    kept = engine.saved(large.rows, Precision.IEEE)
    assert [x.shape[-2] for x in kept[:3]] == [32] * 3  # slots of one block
    out = engine.forward(large.rows, Precision.IEEE, keep=False)
    assert out.saved == ()


def test_no_rows() -> None:
    inputs = make(EngineCase(0, 4, 6, networks=2, selection="gates", per_row_time=True))
    found = by_engine(TritonEngine(), inputs, Precision.IEEE)
    assert found["grad"].shape == (0, 4) and found["d_gates"].shape == (0, 2)
    assert torch.equal(found["d_theta"], torch.zeros_like(inputs.rows.theta))


def test_refusals() -> None:
    double, half = make(EngineCase(2, 3, 4)), make(EngineCase(2, 3, 4), torch.bfloat16)
    with pytest.raises(TypeError, match="float64"):
        TritonEngine().forward(double.rows, Precision.TF32, keep=False)
    with pytest.raises(ValueError, match="expected bf16 for bfloat16 tensors, found ieee"):
        TritonEngine().backward(
            half.rows,
            Precision.IEEE,
            TritonEngine().forward(half.rows, Precision.BF16, keep=False),
            Cotangents(),
            Wanted(),
        )


def test_rows_are_grouped_by_network() -> None:
    from ffrl_fast.triton_kernels.groups import blocks_of

    inputs = make(EngineCase(11, 3, 4, networks=4, selection="index", seed=3))
    index = torch.tensor([2, 0, 2, 2, 3, 2, 2, 0, 3, 2, 2])
    rows = Rows(inputs.rows.z, inputs.rows.theta, inputs.rows.shape, index=index)
    blocks = blocks_of(rows, 2)
    assert blocks.order is not None and blocks.network is not None and blocks.starts is not None
    assert blocks.count == 6 + 4 and blocks.starts.tolist() == [0, 1, 1, 5, 6]
    assert blocks.network.tolist() == [0, 2, 2, 2, 2, 3, -1, -1, -1, -1]
    assert blocks.order.tolist() == [1, 7, 0, 2, 3, 5, 6, 9, 10, -1, 4, 8, *[-1] * 8]
