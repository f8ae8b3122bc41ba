"""The public operators on the CUDA engine, its kernels emulated: from ``hj_residual`` down to the kernels."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import ffrl_fast
from cases import Case, make, on_backend
from cuda_kernels import emulated_kernels
from ffrl_fast import gpu
from ffrl_fast.backends import Verdict
from ffrl_fast.backends.gpu import GpuBackend
from ffrl_fast.gpu.cuda_engine import CudaEngine

NAME = "cuda, emulated"
#: Largest error over largest entry, float32 against float64.
BOUND = 2e-5


@pytest.fixture(autouse=True, scope="module")
def emulated() -> Iterator[None]:
    kernels = emulated_kernels()
    kernels.emulation.reset()
    by_name = importlib.import_module("ffrl_fast.backends")._BY_NAME
    by_name[NAME] = GpuBackend(NAME, lambda request: Verdict(True, "emulated"), lambda: CudaEngine(kernels.module))
    yield
    del by_name[NAME], gpu.engines[NAME]


def check(found: dict[str, Tensor], exact: dict[str, Tensor]) -> None:
    for name, value in exact.items():
        assert found[name].shape == value.shape, name
        if not value.numel():
            continue
        error = (found[name].double() - value).abs().max() / value.abs().max().clamp(min=1e-30)
        assert error < BOUND, f"{name}: {error:.1e}"


@pytest.mark.parametrize(
    "case",
    [
        Case(33, 7, 12, potentials=2, selection="index", force=True),
        Case(20, 9, 5, depth=2, potentials=3, selection="gates", time_embedding="separable", force=True),
        Case(18, 24, 40, per_row_time=True),
        Case(1, 1, 1, out_activation="identity", time_embedding="none"),
        Case(0, 3, 4, potentials=2, selection="index"),
    ],
    ids=str,
)
def test_residual_and_gradients(case: Case) -> None:
    made = make(case, torch.float32)
    check(on_backend(made.to(torch.float32), NAME), on_backend(made, "reference"))


def _path(case: Case, backend: str, dtype: torch.dtype, substeps: int) -> dict[str, Tensor]:
    inputs = make(case, torch.float32).to(dtype)
    selection = dict(inputs.selection)
    if "gates" in selection:
        selection["gates"] = torch.stack([selection["gates"], selection["gates"].square()], 1)
    times = torch.tensor([0.3, 0.9], dtype=dtype, requires_grad=True)
    outputs = ("u", "dt", "residual")
    path = ffrl_fast.integrate(
        inputs.z,
        times,
        inputs.bank,
        force=inputs.force,
        step=0.2,
        substeps=substeps,
        outputs=outputs,
        backend=backend,
        **selection,
    )
    found = {name: getattr(path, name) for name in ("z", *outputs)}
    g = torch.Generator().manual_seed(3)
    total = sum((x * torch.randn(x.shape, generator=g).to(dtype)).sum() for x in found.values())
    leaves = inputs.differentiable | {"times": times}
    del leaves["t"]
    gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return found | {f"d_{n}": x for n, x in zip(leaves, gradients, strict=True)}


@pytest.mark.parametrize("selection", ["int", "index", "gates"])
@pytest.mark.parametrize("time_embedding", ["sinusoidal", "separable", "none"])
@pytest.mark.parametrize(("force", "substeps"), [(False, 3), (True, 1)])
def test_paths(selection: str, time_embedding: str, force: bool, substeps: int) -> None:
    """With a separable force the path goes moment by moment, else in one launch."""
    case = Case(19, 6, 9, 1, 2, selection, time_embedding=time_embedding, force=force)  # type: ignore[arg-type]
    check(_path(case, NAME, torch.float32, substeps), _path(case, "reference", torch.float64, substeps))


def test_nothing_of_autograd_is_lost_between_operator_and_kernel() -> None:
    """A second backward is an error, compile traces through, vmap makes rows of elements."""
    inputs = make(Case(6, 5, 4, potentials=2, selection="index")).to(torch.float32)
    out = ffrl_fast.hj_residual(inputs.z, 0.3, inputs.bank, backend=NAME, **inputs.selection)
    (first,) = torch.autograd.grad(out.residual.sum(), inputs.z, create_graph=True)
    with pytest.raises(RuntimeError, match="backend='reference'"):
        torch.autograd.grad(first.sum(), inputs.z)

    def loss(z: Tensor) -> Tensor:
        return ffrl_fast.hj_loss(z, 0.3, inputs.bank, backend=NAME, **inputs.selection)

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    (eager,), (traced,) = (torch.autograd.grad(f(inputs.z), inputs.z) for f in (loss, compiled))
    assert torch.equal(eager, traced)
