"""The GPU backends on a GPU: results against float64, bits, streams, graphs, and that nothing waits for the device.

``-k small`` selects what compute-sanitizer can go through in a minute.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import ffrl_fast
from cases import Case, Inputs, make, on_backend
from ffrl_fast.tolerances import (
    BF16_PRODUCTS,
    FLOAT32_FLOOR,
    FLOAT32_TIMES_EAGER,
    TF32_PRODUCTS,
    relative_error,
)

BACKENDS = ("triton", "cuda")
SMALL = [
    Case(1, 1, 1),
    Case(65, 24, 40, potentials=3, selection="index", force=True),
    Case(33, 17, 65, potentials=2, selection="gates", per_row_time=True),
    Case(50, 64, 64, out_activation="identity", time_embedding="separable", force=True),
]
LARGE = [
    Case(1000, 64, 64, potentials=3, selection="index", force=True),
    Case(4097, 128, 128, potentials=3, selection="index"),
    Case(1023, 226, 226, force=True),
    Case(513, 324, 324, potentials=3, selection="gates"),
    Case(300, 100, 130, depth=3, potentials=2, selection="index", force=True),
    Case(129, 1024, 1024),
    Case(70_000, 64, 64, potentials=5, selection="index"),
]


def on_gpu(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    moved = inputs.to(dtype)

    def leaf(x: Tensor) -> Tensor:
        return x.detach().cuda().requires_grad_(x.requires_grad)

    return dataclasses.replace(
        moved,
        bank=moved.bank.cuda(),
        force=None if moved.force is None else moved.force.cuda(),
        z=leaf(moved.z),
        t=leaf(moved.t),
        selection={k: leaf(x) if isinstance(x, Tensor) else x for k, x in moved.selection.items()},
        cotangents=[x.cuda() for x in moved.cotangents],
    )


def able(backend: str) -> str:
    line = next(x for x in ffrl_fast.explain(device="cuda").splitlines() if f" {backend} " in x)
    if " yes " not in line:
        pytest.skip(line.strip())
    return backend


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return able(request.param)


def check(case: Case, backend: str, precision: str) -> None:
    made = make(case, torch.float32)
    exact = on_backend(on_gpu(made, torch.float64), "reference")
    inputs = on_gpu(made, torch.float32)
    with ffrl_fast.use_precision(precision):
        found = on_backend(inputs, backend)
    eager = on_backend(inputs, "reference")
    for name, value in exact.items():
        bound = {
            "ieee": FLOAT32_TIMES_EAGER * relative_error(eager[name], value) + FLOAT32_FLOOR,
            "tf32": TF32_PRODUCTS,
            "bf16": BF16_PRODUCTS,
        }[precision]
        assert relative_error(found[name], value) <= bound, name


@pytest.mark.parametrize("precision", ["ieee", "tf32", "bf16"])
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_small(case: Case, backend: str, precision: str) -> None:
    check(case, backend, precision)


@pytest.mark.parametrize("precision", ["ieee", "tf32", "bf16"])
@pytest.mark.parametrize("case", LARGE, ids=str)
def test_large(case: Case, backend: str, precision: str) -> None:
    check(case, backend, precision)


def _path(inputs: Inputs, backend: str) -> dict[str, Tensor]:
    times = torch.arange(1.0, 6.0, dtype=inputs.z.dtype, device="cuda")
    path = ffrl_fast.integrate(
        inputs.z,
        times,
        inputs.bank,
        force=inputs.force,
        step=0.3,
        substeps=2,
        outputs=("u", "dt", "residual"),
        backend=backend,
        **inputs.selection,
    )
    found = {"z": path.z, "u": path.u, "dt": path.dt, "residual": path.residual}
    total = sum(x.square().sum() for x in found.values() if x is not None)
    assert isinstance(total, Tensor)
    leaves = inputs.differentiable
    del leaves["t"]
    gradients = torch.autograd.grad(total, list(leaves.values()))
    return {n: x for n, x in found.items() if x is not None} | dict(zip(leaves, gradients, strict=True))


@pytest.mark.parametrize("precision", ["ieee", "tf32", "bf16"])
@pytest.mark.parametrize("case", [SMALL[1], LARGE[0], LARGE[3]], ids=str)
def test_paths(case: Case, backend: str, precision: str) -> None:
    made = make(case, torch.float32)
    exact = _path(on_gpu(made, torch.float64), "reference")
    with ffrl_fast.use_precision(precision):
        found = _path(on_gpu(made, torch.float32), backend)
    bound = {"ieee": 1e-4, "tf32": 5 * TF32_PRODUCTS, "bf16": 5 * BF16_PRODUCTS}[precision]
    for name, value in exact.items():
        assert relative_error(found[name], value) <= bound, name


@pytest.mark.parametrize("precision", ["ieee", "tf32", "bf16"])
def test_the_same_bits_twice_small(backend: str, precision: str) -> None:
    inputs = on_gpu(make(Case(3000, 64, 64, potentials=3, selection="index", force=True)), torch.float32)
    with ffrl_fast.use_precision(precision):
        first, second = on_backend(inputs, backend), on_backend(inputs, backend)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_nothing_waits_for_the_device(backend: str) -> None:
    inputs = on_gpu(make(SMALL[1]), torch.float32)
    on_backend(inputs, backend)  # compiles and loads
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        on_backend(inputs, backend)
    finally:
        torch.cuda.set_sync_debug_mode(before)


def test_captured_in_a_graph(backend: str) -> None:
    inputs = on_gpu(make(SMALL[1]), torch.float32)

    def work() -> dict[str, Any]:
        return on_backend(inputs, backend)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            expected = work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = work()
    for value in captured.values():
        value.detach().zero_()
    graph.replay()
    torch.cuda.synchronize()
    for name, value in expected.items():
        assert torch.equal(captured[name], value), name


def test_on_the_callers_stream(backend: str) -> None:
    """The rows are written on a stream of their own, after a long wait; who reads too early reads zeros."""
    made = make(SMALL[3], torch.float32)
    expected = on_backend(on_gpu(made, torch.float32), backend)
    inputs = on_gpu(made, torch.float32)
    rows = inputs.z.detach().clone()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        inputs.z.data.zero_()
        torch.cuda._sleep(50_000_000)
        inputs.z.data.copy_(rows)
        found = on_backend(inputs, backend)
    stream.synchronize()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_an_index_out_of_range_is_the_devices_assertion(backend: str) -> None:
    """In a process of its own: after it the device answers nothing more."""
    import subprocess
    import sys

    code = (
        "import torch, ffrl_fast\n"
        "bank = ffrl_fast.PotentialBank(2, 3, device='cuda')\n"
        "index = torch.tensor([0, 2], device='cuda')\n"
        f"ffrl_fast.potential_field(torch.randn(2, 3, device='cuda'), 0.0, bank, index=index, backend={backend!r})\n"
        "torch.cuda.synchronize()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0 and "assert" in done.stderr


@pytest.mark.parametrize("work", ["field", "path"])
def test_memory_beyond_the_outputs(backend: str, work: str) -> None:
    """No temporaries of B×H×D; and nothing is left behind when the results are gone."""
    rows, dim = 8192, 64
    bank = ffrl_fast.PotentialBank(3, dim, device="cuda")
    z = torch.randn(rows, dim, device="cuda", requires_grad=True)
    index = torch.randint(0, 3, (rows,), device="cuda")

    def field() -> Tensor:
        return ffrl_fast.hj_residual(z, 0.5, bank, index=index, backend=backend).residual.square().mean()

    def path() -> Tensor:
        return ffrl_fast.integrate(z, [1.0, 2.0, 3.0], bank, index=index, backend=backend).z[-1].square().mean()

    calls: dict[str, Callable[[], Tensor]] = {"field": field, "path": path}
    for _ in range(2):
        torch.autograd.grad(calls[work](), [z, bank.theta])
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    torch.autograd.grad(calls[work](), [z, bank.theta])
    assert torch.cuda.max_memory_allocated() - before < 40 * rows * dim * 4
    assert torch.cuda.memory_allocated() == before
