"""Between their arguments and the kernels the GPU operators ask nothing of torch that would wait for the device."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import ffrl_fast
from ffrl_fast import gpu
from ffrl_fast.backends import Verdict
from ffrl_fast.backends.gpu import GpuBackend
from ffrl_fast.gpu.cuda_engine import CudaEngine


class _NothingLaunched:
    """In place of ``ffrl_fast._cuda``: takes every call, and does nothing."""

    @staticmethod
    def workspace_floats(*call: Any) -> int:
        return 1

    @staticmethod
    def forward(*call: Any) -> None: ...

    backward = forward


#: What makes a tensor of the host's numbers, or numbers or a size of what a tensor holds.
_OF_BOTH = ("nonzero", "bincount", "unique", "masked_select", "repeat_interleave")
_OF_TORCH = (*_OF_BOTH, "tensor", "as_tensor", "from_numpy")
_OF_TENSORS = (
    *(*_OF_BOTH, "item", "tolist", "numpy", "cpu", "cuda", "new_tensor"),
    *("__bool__", "__int__", "__float__", "__index__", "__contains__"),
)
_WAITING = {getattr(torch, name) for name in _OF_TORCH} | {getattr(Tensor, name) for name in _OF_TENSORS}


class _Asked(TorchFunctionMode):
    """Counts the calls of functions that wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Tensor.to another dtype is no transfer.
        moved = func is Tensor.to and not all(isinstance(x, torch.dtype) for x in args[1:])
        if moved or func in _WAITING:
            self.counts[func.__name__] += 1
        return func(*args, **(kwargs or {}))


class _Devices(TorchDispatchMode):
    """The devices of all that operators read and make."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.found |= {x.device.type for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor)}
        return out


def _engine(name: str) -> Any:
    if name == "cuda":
        return CudaEngine(_NothingLaunched())
    pytest.importorskip("triton")
    from ffrl_fast.triton_kernels import TritonEngine

    return TritonEngine(80, launch=lambda launch: None)


@pytest.fixture(params=["triton", "cuda"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """A GPU backend of which only the launches are left out, on tensors of any device."""
    engine, name = _engine(request.param), f"{request.param}, not launched"
    by_name = importlib.import_module("ffrl_fast.backends")._BY_NAME
    by_name[name] = GpuBackend(name, lambda request: Verdict(True, "leaves launches out"), lambda: engine)
    yield name
    del by_name[name], gpu.engines[name]
    gpu.field._made.pop(name, None)


@pytest.mark.parametrize("time_embedding", ["sinusoidal", "separable"])
@pytest.mark.parametrize("selection", ["int", "index", "gates"])
def test_nothing_waits_for_the_device_or_leaves_it(backend: str, selection: str, time_embedding: Any) -> None:
    """On tensors that have no values: what looked at one would raise."""
    with torch.device("meta"):
        bank, force = (ffrl_fast.PotentialBank(3, 40, 24, time_embedding=time_embedding) for _ in range(2))
        z = torch.empty(70, 40, requires_grad=True)
        which: Any = {"index": 1}
        if selection == "index":
            which = {"index": torch.empty(70, dtype=torch.int64)}
        elif selection == "gates":
            which = {"gates": torch.empty(70, 3, requires_grad=True)}
    leaves = [z, bank.theta, force.theta]
    with _Asked() as asked, _Devices() as devices:
        out = ffrl_fast.hj_residual(z, 0.5, bank, force=force, backend=backend, **which)
        torch.autograd.grad(out.residual.square().mean(), leaves)
        path = ffrl_fast.integrate(z, [1.0, 2.0], bank, force=force, outputs=("residual",), backend=backend, **which)
        assert path.residual is not None
        torch.autograd.grad(path.residual.square().mean(), leaves)
    assert devices.found == {"meta"}
    assert asked.counts == {}
