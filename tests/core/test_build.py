"""What the layers may include and import, and what the extension module links to."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ffrl_fast
from ffrl_fast import PotentialBank, _core, native
from ffrl_fast.layout import NetworkShape
from ffrl_fast.native.problem import KEPT_LAYOUT

ROOT = Path(__file__).parents[2]
FRAMEWORK = re.compile(r'#\s*include\s*[<"](torch|ATen|c10|pybind11|Python\.h|numpy)')


@pytest.mark.parametrize("folder", ["csrc/core", "kernels/cuda"])
def test_no_framework_header_in_the_core(folder: str) -> None:
    sources = [p for p in (ROOT / folder).rglob("*") if p.suffix in {".hpp", ".h", ".cpp", ".cu", ".cuh"}]
    assert sources or folder == "kernels/cuda"
    assert [str(p) for p in sources if FRAMEWORK.search(p.read_text())] == []


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {name.split(".")[0] for name in found}


def test_the_engine_imports_torch_and_nothing_else() -> None:
    allowed = {"torch", "ffrl_fast"} | set(sys.stdlib_module_names)
    for path in (ROOT / "ffrl_fast").rglob("*.py"):
        assert _imports(path) <= allowed, path


def test_importing_the_engine_loads_neither_the_training_layer_nor_kornia() -> None:
    program = "import sys, ffrl_fast; print([m for m in sys.modules if m.split('.')[0] in ('ffrl', 'kornia')])"
    assert subprocess.check_output([sys.executable, "-P", "-c", program], text=True).strip() == "[]"


def test_the_extension_needs_no_torch_and_no_python_library() -> None:
    dynamic = subprocess.check_output(["readelf", "-d", _core.__file__], text=True)
    needed = set(re.findall(r"NEEDED.*\[(.+?)\]", dynamic))
    names = {name.split(".so")[0] for name in needed}
    assert names <= {
        "libstdc++",
        "libgomp",
        "libgcc_s",
        "libm",
        "libc",
        "libpthread",
        "ld-linux-x86-64",
        "ld-linux-aarch64",
    }
    assert "RPATH" not in dynamic and "RUNPATH" not in dynamic


@pytest.mark.skipif(
    importlib.util.find_spec("ffrl_fast._cuda") is None, reason="this build of ffrl_fast has no CUDA kernels"
)
def test_the_cuda_extension_needs_no_cuda_library_and_is_loaded_on_first_use() -> None:
    spec = importlib.util.find_spec("ffrl_fast._cuda")
    assert spec is not None and spec.origin is not None
    dynamic = subprocess.check_output(["readelf", "-d", spec.origin], text=True)
    names = {name.split(".so")[0] for name in re.findall(r"NEEDED.*\[(.+?)\]", dynamic)}
    assert names <= {"libstdc++", "libgcc_s", "libm", "libc", "libdl", "librt", "libpthread", "ld-linux-x86-64"}
    assert "RPATH" not in dynamic and "RUNPATH" not in dynamic
    assert sum(path.stat().st_size for path in Path(spec.origin).parent.glob("*.so")) < 25e6
    program = "import sys, ffrl_fast; ffrl_fast.explain(device='cuda'); print('ffrl_fast._cuda' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-P", "-c", program], text=True).strip() == "False"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_one_openmp_library_in_the_process() -> None:
    """In a process of its own: scikit-learn, which other tests import, brings a library of its own."""
    program = "import ffrl_fast.env; print(len(ffrl_fast.env.openmp_libraries()))"
    assert subprocess.check_output([sys.executable, "-P", "-c", program], text=True).strip() == "1"


def test_both_languages_lay_out_parameters_alike() -> None:
    for dim, width, depth in ((1, 1, 1), (3, 7, 2), (324, 130, 3)):
        native = _core.layout(dim, width, depth)
        for time_embedding in ("none", "separable", "sinusoidal"):
            fields = NetworkShape(dim, width, depth, time_embedding=time_embedding).fields  # type: ignore[arg-type]
            assert {name: offset for name, (offset, _) in fields.items()} == {name: native[name] for name in fields}


def test_another_size_of_what_is_kept_has_another_number() -> None:
    """Compiled graphs that torch keeps on disk would be found under the old one."""
    found = []
    for rows, width, force, substeps in ((7, 16, False, 0), (3, 20, True, 0), (9, 5, False, 2)):
        bank = PotentialBank(2, 5, width)
        shape = [*bank.shape.native, *(bank.shape.native if force else ())]
        of_force = bank.theta if force else None
        plain = (1, shape, force, False, False, substeps, 1.0)
        times = torch.rand(4 if substeps else 1)
        given = (torch.zeros(rows, 5), times, bank.theta, None, None, of_force, None, None, None, None)
        found.append(native.kept_sizes(native.Inputs(*given, *plain)))
    assert (KEPT_LAYOUT, found) == (2, [(343, 1024), (534, 4080), (441, 832)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("with_force", [False, True])
def test_both_languages_size_what_is_kept_alike(dtype: torch.dtype, with_force: bool) -> None:
    size = _core.kept_sizes_f32 if dtype == torch.float32 else _core.kept_sizes_f64
    for width in (1, 15, 16, 17, 324):
        for depth, gates, substeps, tangent in itertools.product((1, 3), (False, True), (0, 1, 2), (None, 1, 2)):
            bank = PotentialBank(2, 5, width, depth, dtype=dtype)
            force = PotentialBank(2, 5, width + 1, time_embedding="none", dtype=dtype)
            times = torch.rand(4 if substeps else 1, dtype=dtype)
            tau, dtau = bank.conditioning(times) if width % 2 else (None, None)
            rows = 7 if width > 1 else 3  # few rows are not packed
            direction = torch.zeros((rows, 5) if tangent == 2 else 5, dtype=dtype) if tangent else None
            inputs = native.Inputs(
                torch.zeros(rows, 5, dtype=dtype), times, bank.theta, tau, dtau, force.theta if with_force else None,
                None, None, torch.zeros(rows, 2, dtype=dtype) if gates else None, direction, -1 if gates else 1,
                [*bank.shape.native, *(force.shape.native if with_force else ())], with_force,
                bool(substeps) and tangent is None, False, substeps, 1.0,
            )  # fmt: skip
            plan, given = native.prepare(inputs)
            assert size(plan.sizes, native.numbers(given)) == native.kept_sizes(inputs)


def _run(variable: str) -> subprocess.CompletedProcess[str]:
    program = "import ffrl_fast; from ffrl_fast import _core; print(_core.isa())"
    return subprocess.run(
        ["env", f"FFRL_FAST_ISA={variable}", sys.executable, "-P", "-c", program],
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_instruction_set_of_this_processor_can_be_forced() -> None:
    for name, supported in _core.isas():
        ran = _run(name)
        if supported:
            assert ran.stdout.strip() == name
        else:
            assert f"FFRL_FAST_ISA={name}: this processor does not support it" in ran.stderr


def test_an_unknown_instruction_set_is_an_error_at_import() -> None:
    assert "FFRL_FAST_ISA=mmx: expected one of" in _run("mmx").stderr


def test_env_reports_what_a_bug_report_needs() -> None:
    report = subprocess.check_output([sys.executable, "-P", "-m", "ffrl_fast.env"], text=True)
    for word in ("ffrl_fast", "torch", "processor", "instruction set", _core.isa(), "openmp", "→ cpu"):
        assert word in report


def test_version() -> None:
    assert re.search(rf'^version = "{re.escape(ffrl_fast.__version__)}"$', (ROOT / "pyproject.toml").read_text(), re.M)
