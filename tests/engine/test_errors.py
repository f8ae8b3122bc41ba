"""What bad and unusual input gets, row by row of the table in the README's docs, on each backend."""

from __future__ import annotations

import numbers
import os
import subprocess
import sys
from fractions import Fraction
from typing import Any

import pytest
import torch

import ffrl_fast
from cases import Case, make
from ffrl_fast import PotentialBank, hj_loss, hj_residual, integrate, log_det, potential_field
from ffrl_fast.backends.interface import OPERATORS


def bank(k: int = 3, d: int = 4, **options: Any) -> PotentialBank:
    return PotentialBank(k, d, 5, **options)


def rows(b: int = 6, d: int = 4) -> torch.Tensor:
    return torch.randn(b, d)


INDEX = torch.tensor([0, 1, 2, 2, 1, 0])

BAD_SHAPES: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("rank of z", {"z": torch.randn(4)}, ValueError, r"z: expected shape \(B, 4\), found \(4,\)"),
    ("D of z", {"z": rows(6, 5)}, ValueError, r"z: expected shape \(B, 4\), found \(6, 5\)"),
    ("type of z", {"z": [[0.0] * 4]}, TypeError, "z: expected a tensor, found list"),
    (
        "dtype of z",
        {"z": rows().double()},
        TypeError,
        "z: expected dtype torch.float32 as the bank's, found torch.float64",
    ),
    ("device of z", {"z": rows().to("meta")}, ValueError, "z: expected device cpu as the bank's, found meta"),
    (
        "shape of t",
        {"t": torch.rand(5)},
        ValueError,
        r"t: expected a number or shape \(\), \(1,\) or \(6,\), found \(5,\)",
    ),
    (
        "dtype of t",
        {"t": torch.tensor(1)},
        TypeError,
        "t: expected dtype torch.float32 as the bank's, found torch.int64",
    ),
    ("type of t", {"t": "now"}, TypeError, "t: expected a number or a tensor, found str"),
    ("bool t", {"t": True}, TypeError, "t: expected a number or a tensor, found bool"),
    ("shape of index", {"index": INDEX[:5]}, ValueError, r"index: expected an int or shape \(6,\), found \(5,\)"),
    ("dtype of index", {"index": INDEX.float()}, TypeError, "index: expected dtype torch.int64, found torch.float32"),
    ("int32 index", {"index": INDEX.int()}, TypeError, "index: expected dtype torch.int64, found torch.int32"),
    ("type of index", {"index": 1.5}, TypeError, "index: expected an int or an int64 tensor, found float"),
    ("bool index", {"index": True}, TypeError, "index: expected an int or an int64 tensor, found bool"),
    (
        "sparse index",
        {"index": INDEX.to_sparse()},
        TypeError,
        "index: expected a strided tensor, found torch.sparse_coo",
    ),
    ("time too large", {"t": 1e300}, ValueError, r"t: expected a number that torch\.float32 holds, found 1e\+300"),
    ("rows of integers", {"z": rows().long(), "t": float("nan")}, TypeError, "z: expected dtype torch.float32"),
    ("no index", {"index": None}, ValueError, "index: the bank has 3 potentials"),
    ("int index too large", {"index": 3}, IndexError, "index: expected 0 ≤ index < 3, found 3"),
    ("int index negative", {"index": -1}, IndexError, "index: expected 0 ≤ index < 3, found -1"),
    (
        "K of gates",
        {"index": None, "gates": torch.rand(6, 2)},
        ValueError,
        r"gates: expected shape \(6, 3\), found \(6, 2\)",
    ),
    (
        "rows of gates",
        {"index": None, "gates": torch.rand(1, 3)},
        ValueError,
        r"gates: expected shape \(6, 3\), found \(1, 3\)",
    ),
    (
        "dtype of gates",
        {"index": None, "gates": torch.rand(6, 3).double()},
        TypeError,
        "gates: expected dtype torch.float32",
    ),
    ("index and gates", {"gates": torch.rand(6, 3)}, ValueError, "index, gates: expected one of the two, found both"),
    ("bank", {"bank": torch.nn.Linear(4, 4)}, TypeError, "bank: expected a PotentialBank, found Linear"),
    (
        "unknown backend",
        {"backend": "fpga"},
        ValueError,
        "backend: expected one of 'cpu', 'cuda', 'triton', 'reference', found 'fpga'",
    ),
    ("type of backend", {"backend": ["cpu"]}, TypeError, "backend: expected a name, found list"),
]


@pytest.mark.parametrize(("change", "error", "message"), [b[1:] for b in BAD_SHAPES], ids=[b[0] for b in BAD_SHAPES])
def test_bad_arguments_are_named(change: dict[str, Any], error: type[Exception], message: str, backend: str) -> None:
    arguments = {"z": rows(), "t": 0.5, "bank": bank(), "index": INDEX, "backend": backend} | change
    z, t, of = (arguments.pop(name) for name in ("z", "t", "bank"))
    with pytest.raises(error, match=message):
        potential_field(z, t, of, **arguments)


@pytest.mark.parametrize("bad", [-1, 3, 2**40, -(2**63)])
def test_an_index_out_of_range_is_an_error_before_anything_is_written(bad: int, backend: str) -> None:
    index = INDEX.clone()
    index[4] = bad
    with pytest.raises(IndexError, match=r"index: expected values in 0 … 2, found"):
        potential_field(rows(), 0.5, bank(), index=index, backend=backend)


@pytest.mark.parametrize(
    ("force", "error", "message"),
    [
        (bank(2), ValueError, "force: expected num_potentials = 3 and dim = 4 as the bank's, found 2 and 4"),
        (bank(3, 5), ValueError, "force: expected num_potentials = 3 and dim = 4 as the bank's, found 3 and 5"),
        (bank(dtype=torch.float64), TypeError, "force: expected dtype torch.float32"),
        ("F", TypeError, "force: expected a PotentialBank, found str"),
    ],
    ids=["K", "D", "dtype", "type"],
)
def test_a_force_that_does_not_fit_the_bank(force: Any, error: type[Exception], message: str, backend: str) -> None:
    with pytest.raises(error, match=message):
        hj_residual(rows(), 0.5, bank(), force=force, index=INDEX, backend=backend)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"method": "rk4"}, ValueError, "method: expected 'euler', found 'rk4'"),
        ({"substeps": 0}, ValueError, "substeps: expected an integer ≥ 1, found 0"),
        (
            {"outputs": ("speed",)},
            ValueError,
            "outputs: expected names among 'u', 'dt', 'residual', 'row_sum', 'log_det', found 'speed'",
        ),
        (
            {"outputs": "log_det"},
            TypeError,
            "outputs: expected a sequence of names among 'u', 'dt', 'residual', 'row_sum', 'log_det', found 'log_det'",
        ),
        ({"outputs": None}, TypeError, "outputs: expected a sequence of names among .* found NoneType"),
        ({"outputs": [torch.zeros(2)]}, ValueError, "outputs: expected names among"),
        ({"times": 3.0}, TypeError, r"times: expected a sequence of numbers or a \(T,\) tensor, found float"),
        ({"times": None}, TypeError, r"times: expected a sequence of numbers or a \(T,\) tensor, found NoneType"),
        ({"times": "12"}, TypeError, r"times: expected a sequence of numbers or a \(T,\) tensor, found str"),
        ({"times": [1, "x"]}, TypeError, r"times: expected numbers or one \(T,\) tensor, found str"),
        ({"times": [1.0, True]}, TypeError, r"times: expected numbers or one \(T,\) tensor, found bool"),
        ({"times": [torch.ones(())]}, TypeError, r"times: expected numbers or one \(T,\) tensor, found Tensor"),
        ({"step": "a"}, TypeError, "step: expected a number, found str"),
        ({"step": None}, TypeError, "step: expected a number, found NoneType"),
        ({"step": True}, TypeError, "step: expected a number, found bool"),
        ({"step": torch.ones((), requires_grad=True)}, TypeError, "step: expected a number, found Tensor"),
        ({"substeps": 1.0}, ValueError, r"substeps: expected an integer ≥ 1, found 1\.0"),
        ({"times": torch.zeros(2, 2)}, ValueError, r"times: expected shape \(T,\), found \(2, 2\)"),
        ({"times": torch.ones(2).to_sparse()}, TypeError, "times: expected a strided tensor"),
        ({"times": torch.zeros(2).double()}, TypeError, "times: expected torch.float32"),
        ({"z0": torch.zeros(6)}, ValueError, r"z0: expected shape \(B, 4\), found \(6,\)"),
        (
            {"index": None, "gates": torch.zeros(6, 4, 3)},
            ValueError,
            r"gates: expected shape \(6, 3\) or \(6, 2, 3\), found \(6, 4, 3\)",
        ),
    ],
    ids=str,
)
def test_bad_arguments_of_integrate(change: dict[str, Any], error: type[Exception], message: str, backend: str) -> None:
    arguments = {"z0": rows(), "times": [1.0, 2.0], "index": INDEX, "backend": backend} | change
    z0, times = arguments.pop("z0"), arguments.pop("times")
    with pytest.raises(error, match=message):
        integrate(z0, times, bank(), **arguments)


@pytest.mark.parametrize("method", ["exact", "hutchinson", "row_sum"])
@pytest.mark.parametrize("step", ["a", None, True, torch.ones((), requires_grad=True)], ids=str)
def test_a_step_that_is_no_number(step: Any, method: Any, backend: str) -> None:
    with pytest.raises(TypeError, match=f"step: expected a number, found {type(step).__name__}"):
        log_det(rows(), 0.5, bank(), index=1, step=step, method=method, backend=backend)


class _Whole:
    """An integer of another library: registered as one, and no ``int``, as NumPy's are."""

    def __init__(self, value: int) -> None:
        self._value = value

    def __int__(self) -> int:
        return self._value


numbers.Integral.register(_Whole)


@torch.no_grad()
def test_numbers_of_other_libraries(backend: str) -> None:
    """As NumPy's scalars are: a ``Real`` that is no float, an ``Integral`` that is no int."""
    of, z = bank(), rows()
    half, two = Fraction(1, 2), _Whole(2)
    exact = potential_field(z, 0.5, of, index=2, backend=backend)
    assert torch.equal(potential_field(z, half, of, index=two, backend=backend).grad, exact.grad)  # type: ignore[arg-type]
    path = integrate(z, [0.5, 1], of, index=2, step=0.5, substeps=2, backend=backend).z
    found = integrate(z, [half, 1], of, index=two, step=half, substeps=two, backend=backend).z  # type: ignore[arg-type,list-item]
    assert torch.equal(found, path)
    determinant = log_det(z, 0.5, of, index=2, step=0.5, backend=backend).value
    assert torch.equal(log_det(z, half, of, index=two, step=half, backend=backend).value, determinant)  # type: ignore[arg-type]
    with pytest.raises(IndexError, match="index: expected 0 ≤ index < 3, found 3"):
        potential_field(z, 0.5, of, index=_Whole(3), backend=backend)  # type: ignore[arg-type]
    sizes = PotentialBank(*(_Whole(2) for _ in range(4)))  # type: ignore[arg-type]
    assert sizes.theta.shape == PotentialBank(2, 2, 2, 2).theta.shape


@torch.no_grad()
def test_times_and_outputs_may_be_read_once(backend: str) -> None:
    path = integrate(
        rows(), (t for t in (1.0, 2.0)), bank(), index=0, outputs=(name for name in ("u", "log_det")), backend=backend
    )  # type: ignore[arg-type]
    assert path.u is not None and path.log_det is not None and path.u.shape == path.log_det.shape == (2, 6)


@pytest.mark.parametrize("selection", ["int", "index", "gates"])
def test_no_rows(selection: Any, backend: str) -> None:
    inputs = make(Case(0, 4, 5, 2, 3, selection, force=True))
    out = hj_residual(inputs.z, 0.5, inputs.bank, force=inputs.force, backend=backend, **inputs.selection)
    assert [tuple(x.shape) for x in out] == [(0,), (0,), (0, 4), (0,)]
    total = sum(x.sum() for x in out)
    z, theta, force = torch.autograd.grad(total, (inputs.z, inputs.bank.theta, inputs.force.theta), allow_unused=True)
    assert z.shape == (0, 4)
    assert theta.shape == inputs.bank.theta.shape and not theta.any()
    assert force is None or not force.any()


def test_no_steps(backend: str) -> None:
    z0 = rows()
    path = integrate(z0, [], bank(), index=INDEX, outputs=("u", "residual"), backend=backend)
    assert torch.equal(path.z, z0[None])
    assert path.u.shape == path.residual.shape == (0, 6)


def _views(x: torch.Tensor) -> dict[str, torch.Tensor]:
    wide = torch.randn(x.shape[0] + 2, 2 * x.shape[1] + 3, dtype=x.dtype)
    wide[1:-1, 2 : 2 + 2 * x.shape[1] : 2] = x
    offset = torch.randn(x.shape[0], x.shape[1] + 5, dtype=x.dtype)
    offset[:, 3:-2] = x
    return {
        "transposed": x.t().contiguous().t(),
        "strided": wide[1:-1, 2 : 2 + 2 * x.shape[1] : 2],
        "offset": offset[:, 3:-2],
        "reversed twice": x.flip(0).flip(0),
        "off the cache line": torch.cat((torch.zeros(1, dtype=x.dtype), x.flatten()))[1:].view_as(x),
    }


@pytest.mark.parametrize("dim", [13, 16])
@pytest.mark.parametrize("view", ["transposed", "strided", "offset", "reversed twice", "off the cache line"])
def test_views_give_the_same_bits(view: str, dim: int, backend: str) -> None:
    """Rows of whole vectors are read, and their gradients written, in place."""
    inputs = make(Case(100, dim, 22, 1, 3, "gates", per_row_time=True, force=True))
    z, gates = inputs.z.detach(), inputs.selection["gates"].detach()

    def run(z: torch.Tensor, t: torch.Tensor, gates: torch.Tensor) -> list[torch.Tensor]:
        z = z.detach().requires_grad_() if z.is_contiguous() else z.requires_grad_()
        out = hj_residual(z, t, inputs.bank, force=inputs.force, gates=gates, backend=backend)
        total = sum((o * c).sum() for o, c in zip(out, inputs.cotangents, strict=True))
        loss = hj_loss(z, t, inputs.bank, force=inputs.force, gates=gates, backend=backend)
        field = potential_field(z, t, inputs.bank, gates=gates, backend=backend)
        found = [*out, *field[:3], loss]
        for scalar in (total, loss, (field.grad * inputs.cotangents[2]).sum()):
            found += torch.autograd.grad(scalar, (z, inputs.bank.theta))
        return found

    t = inputs.t.detach()
    seen = run(_views(z)[view].detach(), torch.stack((t, t), 1)[:, 1], _views(gates)[view].detach())
    for a, b in zip(run(z, t, gates), seen, strict=True):
        torch.testing.assert_close(a, b, rtol=0 if backend == "cpu" else 1e-12, atol=0 if backend == "cpu" else 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_halves_of_a_wider_tensor(dtype: torch.dtype, backend: str) -> None:
    """Their rows lie as far apart as those of a tile, but have foreign numbers between them."""
    of = PotentialBank(1, 8 if dtype == torch.float32 else 4, 5, dtype=dtype)
    wide = torch.full((60, 16 if dtype == torch.float32 else 8), torch.nan, dtype=dtype)
    z = wide.chunk(2, 1)[0].normal_()

    def run(z: torch.Tensor) -> list[torch.Tensor]:
        z = z.detach().requires_grad_()
        path = integrate(z, [0.0, 1.0], of, outputs=("residual", "row_sum"), backend=backend)
        field, loss = potential_field(z, 0.5, of, backend=backend), hj_loss(z, 0.5, of, backend=backend)
        total = path.z.square().sum() + path.residual.sum() + path.row_sum.sum() + field.grad.square().sum() + loss
        return [*path[:1], path.residual, path.row_sum, *field[:3], loss, *torch.autograd.grad(total, (z, of.theta))]

    for a, b in zip(run(z), run(z.contiguous()), strict=True):
        torch.testing.assert_close(a, b)


def test_expanded_rows(backend: str) -> None:
    one = torch.randn(1, 4).requires_grad_()
    out = potential_field(one.expand(70, 4), 0.5, bank(), index=1, backend=backend)
    torch.testing.assert_close(out.grad, out.grad[:1].expand(70, 4))
    (d_one,) = torch.autograd.grad(out.u.sum(), one)
    torch.testing.assert_close(d_one, 70 * out.grad[:1], rtol=1e-4, atol=1e-5)


def test_strided_cotangents(backend: str) -> None:
    of, z = bank(1), rows().requires_grad_()
    wide = torch.randn(6, 8)
    (strided,) = torch.autograd.grad(potential_field(z, 0.5, of, backend=backend).grad, z, wide[:, ::2])
    (plain,) = torch.autograd.grad(potential_field(z, 0.5, of, backend=backend).grad, z, wide[:, ::2].contiguous())
    torch.testing.assert_close(strided, plain, rtol=0, atol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("selection", ["int", "index", "gates"])
def test_a_nan_row_stays_alone(value: float, selection: Any, backend: str) -> None:
    inputs = make(Case(60, 8, 20, 2, 3, selection, force=True))
    clean = inputs.z.detach()
    dirty = clean.clone()
    dirty[17, 3] = value

    def run(z: torch.Tensor) -> list[torch.Tensor]:
        z.requires_grad_()
        out = hj_residual(z, 0.5, inputs.bank, force=inputs.force, backend=backend, **inputs.selection)
        return [*out, torch.autograd.grad(out.residual.sum(), z)[0]]

    others = torch.arange(60) != 17
    for a, b in zip(run(clean), run(dirty), strict=True):
        torch.testing.assert_close(a[others], b[others], rtol=1e-12, atol=1e-12)
        if value != value:
            assert b[17].isnan().all()


def test_a_nan_row_makes_the_weight_gradients_nan(backend: str) -> None:
    of, z = bank(1), rows()
    z[2, 1] = float("nan")
    (d_theta,) = torch.autograd.grad(potential_field(z, 0.5, of, backend=backend).u.sum(), of.theta)
    assert d_theta[0, : 5 * 4].isnan().any()


@pytest.mark.parametrize("operator", [potential_field, hj_residual])
def test_a_second_backward_on_the_native_backend_is_an_error(operator: Any) -> None:
    of, z = bank(1), rows().requires_grad_()
    (d_z,) = torch.autograd.grad(operator(z, 0.5, of, backend="cpu").grad.square().sum(), z, create_graph=True)
    with pytest.raises(RuntimeError, match=r"first order only.*second order.*backend='reference'"):
        d_z.sum().backward()


def test_a_second_backward_on_the_reference(backend: str) -> None:
    of, z = bank(1, dtype=torch.float64), rows().double().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda z: potential_field(z, 0.5, of, backend="reference").grad, z)


class TestForcedBackends:
    def test_a_backend_that_cannot_run_gives_its_reason(self) -> None:
        of = bank(1, dtype=torch.bfloat16)
        with pytest.raises(RuntimeError, match="backend='cpu' cannot run potential_field: has float32 and float64"):
            potential_field(rows().bfloat16(), 0.5, of, backend="cpu")
        with ffrl_fast.use_backend("cpu"), pytest.raises(RuntimeError, match="use_backend='cpu' cannot run"):
            potential_field(rows().bfloat16(), 0.5, of)

    def test_the_automatic_choice_takes_what_can_run(self) -> None:
        of = bank(1, dtype=torch.bfloat16)
        assert potential_field(rows().bfloat16(), 0.5, of).grad.dtype == torch.bfloat16

    def test_use_backend_nests_and_restores(self) -> None:
        of, z = bank(1), rows().requires_grad_()

        def native() -> bool:
            return "FieldBackward" in potential_field(z, 0.5, of).u.grad_fn.name()

        assert native()
        with ffrl_fast.use_backend("reference"):
            assert not native()
            with ffrl_fast.use_backend("cpu"):
                assert native()
            assert not native()
        assert native()

    def test_an_unknown_name(self) -> None:
        with pytest.raises(ValueError, match="use_backend: expected one of"), ffrl_fast.use_backend("fpga"):
            pass
        with pytest.raises(TypeError, match="use_backend: expected a name, found NoneType"):
            ffrl_fast.use_backend(None).__enter__()  # type: ignore[arg-type]

    def test_the_environment_chooses_at_import(self) -> None:
        program = (
            "import torch, ffrl_fast\n"
            "bank = ffrl_fast.PotentialBank(1, 4)\n"
            "try:\n"
            "    print(ffrl_fast.potential_field(torch.zeros(2, 4), 0.5, bank).u.grad_fn.name())\n"
            "except ValueError as error:\n"
            "    print(error)\n"
        )

        def said(name: str) -> str:
            environment = {**os.environ, "FFRL_FAST_BACKEND": name}
            return subprocess.check_output([sys.executable, "-P", "-c", program], env=environment, text=True).strip()

        assert "FieldBackward" in said("") != said("reference")
        assert said("fpga") == "FFRL_FAST_BACKEND: expected one of 'cpu', 'cuda', 'triton', 'reference', found 'fpga'"

    def test_explain_says_who_runs_and_why_not(self) -> None:
        table = ffrl_fast.explain(dtype=torch.bfloat16).splitlines()
        assert table[1].startswith("  cpu        no   has float32 and float64, not torch.bfloat16")
        assert table[-1].startswith("→ reference  yes")

    def test_explain_marks_the_choice_by_name(self) -> None:
        with ffrl_fast.use_backend("reference"):
            table = ffrl_fast.explain().splitlines()
        assert [line.split()[1] for line in table if line.startswith("→")] == ["reference"]
        assert table[-1] == "chosen by name: use_backend='reference'"
        assert "chosen by name" not in ffrl_fast.explain()

    def test_explain_says_what_a_call_raises(self) -> None:
        with ffrl_fast.use_backend("cpu"):
            table = ffrl_fast.explain(dtype=torch.bfloat16)
        assert "→" not in table
        assert "\na call raises RuntimeError: use_backend='cpu' cannot run potential_field: has float32" in table

    @pytest.mark.parametrize(
        ("name", "marked", "last"),
        [
            ("reference", ["reference"], "chosen by name: FFRL_FAST_BACKEND='reference'"),
            ("fpga", [], "a call raises ValueError: FFRL_FAST_BACKEND: expected one of"),
        ],
    )
    def test_a_report_marks_the_choice_of_the_environment(self, name: str, marked: list[str], last: str) -> None:
        environment = {**os.environ, "FFRL_FAST_BACKEND": name}
        report = subprocess.check_output([sys.executable, "-P", "-m", "ffrl_fast.env"], env=environment, text=True)
        lines = report.splitlines()
        assert [line.split()[1] for line in lines if line.startswith("→")] == marked
        assert lines[-1].startswith(last)

    def test_explain_knows_the_operators(self) -> None:
        for name in OPERATORS:
            assert callable(getattr(ffrl_fast, name))
            assert ffrl_fast.explain(operator=name).startswith(f"{name} in torch.float32 on cpu\n→ cpu")
        with pytest.raises(ValueError, match=r"operator: expected one of 'potential_field', .*'log_det', found 'xxx'"):
            ffrl_fast.explain(operator="xxx")


class TestBank:
    @pytest.mark.parametrize("name", ["num_potentials", "dim", "width", "depth"])
    @pytest.mark.parametrize("value", [0, -1, 1.5, True])
    def test_bad_sizes(self, name: str, value: Any) -> None:
        sizes = {"num_potentials": 1, "dim": 2, "width": 3, "depth": 1} | {name: value}
        with pytest.raises(ValueError, match=f"{name}: expected an integer ≥ 1, found"):
            PotentialBank(**sizes)

    def test_bad_choices(self) -> None:
        with pytest.raises(ValueError, match="out_activation: expected one of 'tanh', 'identity', found 'relu'"):
            PotentialBank(1, 2, out_activation="relu")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="time_embedding: expected one of"):
            PotentialBank(1, 2, time_embedding="fourier")  # type: ignore[arg-type]
