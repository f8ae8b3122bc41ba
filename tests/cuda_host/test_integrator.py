"""Whole paths by the CUDA kernels, emulated on the host, against the reference in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cuda_host import Traffic
from cuda_kernels import STREAMED, Case, Question, by_emulation, check, emulated_kernels, wrong
from ffrl_fast.gpu.cuda_engine import CudaEngine
from ffrl_fast.gpu.engine import Precision

CASES = [
    Case(1, 1, 1, moments=2),
    Case(20, 24, 40, moments=3),
    Case(37, 24, 40, moments=3, residual=False, precision=Precision.TF32),
    Case(33, 64, 64, moments=2, force=64, precision=Precision.TF32),
    Case(33, 64, 64, moments=2, precision=Precision.BF16),
    Case(33, 100, 128, moments=2, force=70, precision=Precision.BF16),
    Case(40, 128, 100, networks=3, selection="index", moments=2, precision=Precision.TF32),
    Case(17, 226, 226, moments=3, substeps=3, precision=Precision.BF16),
    Case(35, 24, 150, networks=2, selection="index", moments=2, precision=Precision.BF16),
    Case(37, 24, 40, networks=2, selection="gates", moments=2, force=20, precision=Precision.TF32),
    Case(37, 24, 40, depth=2, networks=3, selection="index", moments=4, substeps=2, force=33),
    Case(21, 24, 40, networks=3, selection="gates by step", moments=4, substeps=2, force=20),
    Case(21, 40, 24, networks=2, selection="gates", moments=3, residual=False),
    Case(70, 24, 40, depth=2, networks=2, selection="index", moments=2, force=33, shared_bytes=STREAMED),
    Case(65, 24, 40, networks=2, selection="gates by step", moments=2, force=20, shared_bytes=STREAMED),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_paths_and_their_gradients(case: Case) -> None:
    check(case)


@pytest.mark.parametrize(
    "case",
    [
        Case(2_130, 3, 4, moments=2, force=5, precision=Precision.TF32),  # two warps
        Case(17_000, 3, 4, moments=1, precision=Precision.BF16),  # eight
    ],
    ids=str,
)
def test_blocks_of_several_warps_with_activations_in_registers(case: Case) -> None:
    """Outputs alone: other kernels sum the gradients, and sums over so many random rows may cancel to any part."""
    question = Question(case)
    exact, found = question.exact(), by_emulation(question)
    outputs = {name: exact[name] for name in ("path", "u", "dt", "residual")}
    assert wrong(found, outputs, case.precision) == {}


def test_the_same_bits_in_every_order_of_warps_and_blocks() -> None:
    question = Question(Case(37, 24, 40, networks=2, selection="gates", moments=2, force=20))
    first, second = by_emulation(question, seed=1), by_emulation(question, seed=2)
    for name, x in first.items():
        assert torch.equal(x, second[name]), name


def test_a_path_is_the_operator_step_by_step() -> None:
    """To the last bit: both are the same kernel."""
    path = Question(Case(37, 24, 40, moments=3, residual=False))
    z = by_emulation(path)["path"]
    step = Question(Case(37, 24, 40, residual=False))
    step.inputs["theta"] = path.inputs["theta"]
    for moment in range(3):
        step.inputs["z"] = z[moment].contiguous()
        step.inputs["tau"] = path.inputs["tau"][:, moment : moment + 1].contiguous()
        grad = by_emulation(step)["grad"]
        assert (z[moment] + 0.1 * grad - z[moment + 1]).abs().max() <= 2**-22


def forward_traffic(case: Case) -> tuple[dict[str, Traffic], dict[str, Tensor]]:
    """What the launches of a path's forward read and wrote of each tensor."""
    question, kernels = Question(case), emulated_kernels()

    class Watched:
        workspace_floats = staticmethod(kernels.module.workspace_floats)

        @staticmethod
        def forward(*arguments: object) -> None:
            u, dt, residual, _, path, _ = arguments[3]  # type: ignore[misc]
            for name, address in (("u", u), ("dt", dt), ("residual", residual), ("path", path)):
                if address:
                    buffers[name] = buffers[name][0], address
            size = kernels.module.workspace_floats(*arguments[:3], False, 0)
            buffers["workspace"] = torch.empty(size), arguments[4]  # type: ignore[assignment]
            for name, (like, address) in buffers.items():
                kernels.emulation.register(**{name: _Span(like, address)})
            kernels.module.forward(*arguments)

    exact = question.exact()
    names = ["path", "u", "dt", *(["residual"] if case.residual else [])]
    buffers: dict[str, tuple[Tensor, int]] = {name: (exact[name].float(), 0) for name in names}
    buffers |= {name: (x, x.data_ptr()) for name, x in question.inputs.items()}
    kernels.emulation.reset(max_shared_bytes=case.shared_bytes)
    CudaEngine(Watched()).path_forward(question.path(), case.precision)
    kernels.emulation.check()
    return {name: kernels.emulation.traffic(name) for name in buffers}, {name: x for name, (x, _) in buffers.items()}


class _Span:
    """The memory of a tensor that the engine made, as large as one that the test knows."""

    def __init__(self, like: Tensor, address: int) -> None:
        self._like, self._address = like, address

    def data_ptr(self) -> int:
        return self._address

    def numel(self) -> int:
        return self._like.numel()

    def element_size(self) -> int:
        return self._like.element_size()


@pytest.mark.parametrize("precision", [Precision.IEEE, Precision.TF32])
def test_all_steps_touch_memory_once(precision: Precision) -> None:
    """A block reads its rows and the weights once, then nothing but each moment's τ, and writes the outputs alone."""
    traffic, like = forward_traffic(Case(40, 24, 40, moments=5, precision=precision))
    blocks = 3  # of 16 rows
    for name in ("z", "theta"):
        used = like[name].numel() * 4
        if name == "theta":
            used = 4 * (24 * 40 + 40 + 40 * 40 + 40 + 40 + 1)
        assert traffic[name].loaded == traffic[name].loaded_distinct == used, name
        assert traffic[name].stored == 0
    for name in ("tau", "dtau"):
        assert traffic[name].loaded == blocks * like[name].nbytes, name
    image = 4 * (64 * (32 + 4) + 64 * (64 + 4) + 3 * 64 + 4)  # of the padded weights
    assert traffic["workspace"].loaded == blocks * image
    assert traffic["workspace"].loaded_by_block == image
    for name in ("path", "u", "dt", "residual"):
        assert traffic[name].stored == traffic[name].stored_distinct == like[name].nbytes, name
        assert traffic[name].loaded == 0, name
