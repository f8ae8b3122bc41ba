"""The GPU backends on a GPU: results against float64, bits, streams, graphs, and that nothing waits for the device.

``-k small`` selects what compute-sanitizer can go through in a minute.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import ffrl_fast
from cases import Case, Inputs, make, on_backend
from gpu_checks import check_field, check_path, on_device, path_with_gradients

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


def on_gpu(case: Case) -> Inputs:
    return on_device(make(case, torch.float32), torch.float32, "cuda")


def able(backend: str) -> str:
    line = next(x for x in ffrl_fast.explain(device="cuda").splitlines() if f" {backend} " in x)
    if " yes " not in line:
        pytest.skip(line.strip())
    return backend


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return able(request.param)


@pytest.mark.parametrize("precision", ["ieee", "tf32", "bf16"])
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_small(case: Case, backend: str, precision: str) -> None:
    check_field(case, backend, precision, "cuda")


@pytest.mark.parametrize("precision", ["ieee", "tf32", "bf16"])
@pytest.mark.parametrize("case", LARGE, ids=str)
def test_large(case: Case, backend: str, precision: str) -> None:
    check_field(case, backend, precision, "cuda")


@pytest.mark.parametrize("precision", ["ieee", "tf32", "bf16"])
@pytest.mark.parametrize("case", [SMALL[1], LARGE[0], LARGE[3]], ids=str)
def test_paths(case: Case, backend: str, precision: str) -> None:
    check_path(case, backend, precision, "cuda")


@pytest.mark.parametrize("precision", ["ieee", "tf32", "bf16"])
def test_the_same_bits_twice_small(backend: str, precision: str) -> None:
    inputs = on_gpu(Case(3000, 64, 64, potentials=3, selection="index", force=True))
    with ffrl_fast.use_precision(precision):
        first, second = on_backend(inputs, backend), on_backend(inputs, backend)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_nothing_waits_for_the_device(backend: str) -> None:
    inputs = on_gpu(SMALL[1])
    on_backend(inputs, backend)  # compiles and loads
    path_with_gradients(inputs, backend)
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        on_backend(inputs, backend)
        path_with_gradients(inputs, backend)
    finally:
        torch.cuda.set_sync_debug_mode(before)


@pytest.mark.parametrize(
    ("case", "run"),
    [
        (SMALL[1], on_backend),
        (SMALL[1], path_with_gradients),
        (LARGE[2], path_with_gradients),  # weights that do not stay in shared memory: a launch a moment
    ],
    ids=["field", "path", "wide path"],
)
def test_captured_in_a_graph(case: Case, run: Callable[[Inputs, str], dict[str, Tensor]], backend: str) -> None:
    inputs = on_gpu(case)

    def work() -> dict[str, Tensor]:
        return run(inputs, backend)

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
    expected = on_backend(on_gpu(SMALL[3]), backend)
    inputs = on_gpu(SMALL[3])
    rows = inputs.z.detach().clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
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
