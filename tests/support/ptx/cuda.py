"""CUDA C++ to PTX."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path


class CompilationError(RuntimeError):
    """nvcc is missing, or refuses the source; the message has what it said."""


def compile_cuda(
    source: Path | str,
    arch: str = "sm_80",
    include: Sequence[Path] = (),
    defines: Mapping[str, object] | None = None,
    options: Sequence[str] = (),
) -> str:
    """The PTX of a file, or of CUDA C++ text, by ``nvcc -ptx``."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise CompilationError("nvcc: expected on the path, found none")
    with tempfile.TemporaryDirectory() as folder:
        path = source if isinstance(source, Path) else Path(folder) / "kernel.cu"
        if isinstance(source, str):
            path.write_text(source)
        out = Path(folder) / "kernel.ptx"
        command = [nvcc, "-ptx", f"-arch={arch}", "-std=c++17", *options, *(f"-I{folder}" for folder in include)]
        command += [f"-D{name}={value}" for name, value in (defines or {}).items()]
        run = subprocess.run([*command, str(path), "-o", str(out)], capture_output=True, text=True)
        if run.returncode:
            raise CompilationError(f"nvcc refuses {path.name}:\n{run.stdout}{run.stderr}")
        return out.read_text()
