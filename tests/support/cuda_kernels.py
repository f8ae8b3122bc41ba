"""The CUDA kernels under host emulation, bound by the same source as on a device, and exact results beside theirs."""

from __future__ import annotations

import functools
import importlib.util
import pathlib
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

import pybind11
import torch
from torch import Tensor

from cuda_host import ROOT, Emulation, Mutation, Sanitizer, build
from ffrl_fast import PotentialBank, reference
from ffrl_fast.gpu.cuda_engine import CudaEngine, Path, PathCotangents
from ffrl_fast.gpu.engine import Cotangents, Precision, Rows, Wanted
from ffrl_fast.layout import NetworkShape

_KERNELS = ROOT / "kernels/cuda"
SOURCES = [_KERNELS / f"{name}.cu" for name in ("ieee", "tf32", "bf16", "launch")] + [
    ROOT / "tests/cuda_host/emulated_module.cpp"
]

#: Largest error over largest entry. The operators chain four to eight products; a rounded operand errs by 2⁻¹² (tf32)
#: or 2⁻⁹ (bf16) of itself, and small results, such as sums over rows, by a few times as much of what they are sums of.
BOUNDS = {Precision.IEEE: 3e-6, Precision.TF32: 3e-3, Precision.BF16: 2.5e-2}

#: So little shared memory that no weights stay in it, yet enough for what streams through.
STREAMED = 60 * 1024
RESIDENT = 227 * 1024


@dataclass(frozen=True)
class EmulatedKernels:
    """The module to hand to a ``CudaEngine``, and what counts and checks its launches."""

    module: ModuleType
    emulation: Emulation


@functools.cache
def emulated_kernels(sanitize: Sanitizer | None = None) -> EmulatedKernels:
    return load_kernels(SOURCES, sanitize)


def load_kernels(
    sources: Sequence[pathlib.Path], sanitize: Sanitizer | None = None, mutations: Sequence[Mutation] = ()
) -> EmulatedKernels:
    includes = [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_paths()['include']}"]
    library = build(sources, flags=includes, sanitize=sanitize, mutations=mutations, name="_cuda.so")
    # A name of its own: pybind11 returns the first module of a name for every later one.
    spec = importlib.util.spec_from_file_location(f"{library.parent.name}._cuda", library)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return EmulatedKernels(module, Emulation(library))


@dataclass(frozen=True)
class Case:
    """The shape of one call; ``moments`` 0 is an operator on rows, else a path."""

    rows: int
    dim: int
    width: int
    depth: int = 1
    networks: int = 1
    selection: Literal["potential", "index", "gates", "gates by step"] = "potential"
    row_times: bool = False
    out_activation: Literal["tanh", "identity"] = "tanh"
    conditioned: bool = True
    residual: bool = True
    value_only: bool = False
    tangent: bool = False
    moments: int = 0
    substeps: int = 1
    force: int = 0  # width of the force networks; 0: none
    precision: Precision = Precision.IEEE
    shared_bytes: int = RESIDENT
    step: float = 0.1


Results = dict[str, Tensor]

EVERYTHING = Wanted()


class Question:
    """Random tensors of a case in float32, and what the kernels and the reference in float64 make of them."""

    def __init__(self, case: Case, seed: int = 0) -> None:
        self.case = case
        self._generator = torch.Generator().manual_seed(seed)
        count, networks, n = case.rows, case.networks, max(case.moments, 1)
        steps = n // case.substeps
        times = count if case.row_times else n
        time = "sinusoidal" if case.conditioned else "none"
        self.shape = NetworkShape(case.dim, case.width, case.depth, case.out_activation, time)  # type: ignore[arg-type]
        self.inputs: dict[str, Tensor] = {"z": self._normal(count, case.dim), "theta": self._bank(self.shape)}
        if case.conditioned:
            self.inputs["tau"] = 0.5 * self._normal(networks, times, case.width)
            self.inputs["dtau"] = self._normal(networks, times, case.width)
        self.potential, self.index = -1, None
        if case.selection == "potential":
            self.potential = networks - 1
        elif case.selection == "index":
            self.index = torch.randint(0, networks, (count,), generator=self._generator)
        else:
            by_step = (steps,) if case.selection == "gates by step" else ()
            self.inputs["gates"] = torch.softmax(self._normal(count, *by_step, networks), -1)
        self.force_shape = NetworkShape(case.dim, max(case.force, 1), 1)
        if case.force:
            self.inputs["force_theta"] = self._bank(self.force_shape)
            self.inputs["force_tau"] = self._normal(networks, times, case.force)
        self.drive = self._normal(count) if case.residual and not case.moments else None
        self.tangent = self._normal(count, case.dim) if case.tangent else None
        lead = (steps,) if case.moments else ()
        self.bars: Results = {"u": self._normal(*lead, count)}
        if not case.value_only:
            self.bars["dt"] = self._normal(*lead, count)
            motion = "path" if case.moments else "grad"
            self.bars[motion] = self._normal(*((n + 1,) if case.moments else ()), count, case.dim)
        if case.residual:
            self.bars["residual"] = self._normal(*lead, count)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator)

    def _bank(self, shape: NetworkShape) -> Tensor:
        bank = PotentialBank(
            self.case.networks, shape.dim, shape.width, shape.depth, shape.out_activation, shape.time_embedding
        )
        bank.reset_parameters(self._generator)
        # Wider than the usual start, so that no layer is nearly linear.
        return 1.5 * bank.theta.detach()

    def rows(self) -> Rows:
        i = self.inputs
        return Rows(
            i["z"], i["theta"], self.shape, i.get("tau"), i.get("dtau"), self.potential, self.index, i.get("gates")
        )

    def path(self) -> Path:
        i, case = self.inputs, self.case
        force = None
        if case.force:
            force = Rows(i["z"], i["force_theta"], self.force_shape, i["force_tau"])
        return Path(self.rows(), case.moments, case.step, case.substeps, force, case.residual)

    def by_kernels(self, engine: CudaEngine, wanted: Wanted) -> Results:
        case, bars = self.case, self.bars
        if case.moments:
            path = self.path()
            out = engine.path_forward(path, case.precision)
            cotangents = PathCotangents(bars["path"], bars["u"], bars["dt"], bars.get("residual"))
            g = engine.path_backward(path, case.precision, out.z, cotangents, wanted)
            found = {"path": out.z, "u": out.u, "dt": out.dt, "residual": out.residual}
            found |= {f"d_{name}": x for name, x in g.rows._asdict().items()}
            found |= {"d_force_theta": g.force_theta, "d_force_tau": g.force_tau}
        else:
            rows = self.rows()
            made = engine.forward(
                rows, case.precision, keep=True, value_only=case.value_only, drive=self.drive, tangent=self.tangent
            )
            of_rows = Cotangents(bars["u"], bars.get("dt"), bars.get("grad"), bars.get("residual"))
            gradients = engine.backward(rows, case.precision, made, of_rows, wanted, value_only=case.value_only)
            found = {"u": made.u, "residual": made.residual, "hvp": made.hvp}
            if not case.value_only:
                found |= {"dt": made.dt, "grad": made.grad}
            found |= {f"d_{name}": x for name, x in gradients._asdict().items()}
        return {name: x for name, x in found.items() if x is not None}

    def exact(self) -> Results:
        case = self.case
        leaves = {name: x.double().requires_grad_() for name, x in self.inputs.items()}
        found = self._exact_path(leaves) if case.moments else self._exact_field(leaves)
        total = sum((found[name] * bar.double()).sum() for name, bar in self.bars.items())
        gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)  # type: ignore[arg-type]
        for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
            found[f"d_{name}"] = torch.zeros_like(leaf) if gradient is None else gradient
        return {name: x.detach() for name, x in found.items()}

    def _exact_field(self, leaves: Results) -> Results:
        field = self._reference(leaves, leaves["z"], "", slice(None), leaves.get("gates"))
        if self.case.value_only:
            return {"u": field.u}
        found = {"u": field.u, "dt": field.dt, "grad": field.grad}
        if field.hvp is not None:
            found["hvp"] = field.hvp
        if self.drive is not None:
            found["residual"] = reference.hj_residual(field.dt, field.grad, None) + self.drive.double()
        return found

    def _exact_path(self, leaves: Results) -> Results:
        case, z, outputs = self.case, [leaves["z"]], []
        for moment in range(case.moments):
            gates, now = leaves.get("gates"), slice(moment, moment + 1)
            if gates is not None and gates.dim() == 3:
                gates = gates[:, moment // case.substeps]
            field = self._reference(leaves, z[-1], "", now, gates)
            if moment % case.substeps == 0:
                force = self._reference(leaves, z[-1], "force_", now, gates).u if case.force else None
                outputs.append((field.u, field.dt, reference.hj_residual(field.dt, field.grad, force)))
            z.append(z[-1] + case.step * field.grad)
        u, dt, residual = (torch.stack(x) for x in zip(*outputs, strict=True))
        found = {"path": torch.stack(z), "u": u, "dt": dt}
        return found | {"residual": residual} if case.residual else found

    def _reference(
        self, leaves: Results, z: Tensor, of: Literal["", "force_"], times: slice, gates: Tensor | None
    ) -> reference.Field:
        tau, dtau = leaves.get(f"{of}tau"), None if of else leaves.get("dtau")
        return reference.potential_field(
            z,
            torch.zeros(1, dtype=torch.float64),
            leaves[f"{of}theta"],
            self.force_shape if of else self.shape,
            None if tau is None else tau[:, times],
            None if dtau is None else dtau[:, times],
            potential=self.potential,
            index=self.index,
            gates=gates,
            tangent=None if self.tangent is None or of else self.tangent.double(),
        )


def errors(found: Results, exact: Results) -> dict[str, float]:
    """Largest error over largest entry of each; NaN where there is one."""
    return {
        name: float((found[name].double() - exact[name]).abs().max() / exact[name].abs().max().clamp_min(1e-30))
        for name in exact
        if exact[name].numel()
    }


def wrong(found: Results, exact: Results, precision: Precision) -> dict[str, float]:
    """The errors that are not within the precision's bound; NaN is not."""
    return {name: error for name, error in errors(found, exact).items() if not error <= BOUNDS[precision]}


def by_emulation(
    question: Question, seed: int = 0, wanted: Wanted = EVERYTHING, kernels: EmulatedKernels | None = None
) -> Results:
    """The kernels' results, warps and blocks in an order of the seed; raises where a launch did what CUDA forbids."""
    kernels = kernels or emulated_kernels()
    kernels.emulation.reset(seed, max_shared_bytes=question.case.shared_bytes)
    found = question.by_kernels(CudaEngine(kernels.module), wanted)
    kernels.emulation.check()
    return found


def check(case: Case) -> None:
    """Every output and every gradient of the case, within its precision's bound."""
    question = Question(case)
    exact = question.exact()
    found = by_emulation(question)
    assert found.keys() == exact.keys()
    assert wrong(found, exact, case.precision) == {}
