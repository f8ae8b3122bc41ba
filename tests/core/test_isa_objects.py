"""The check by which the build keeps the code compiled for one instruction set apart from another's."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# The check reads what nm says of objects; where the package was installed as a wheel there may be no compiler.
pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")

CHECK = Path(__file__).parents[2] / "csrc" / "core" / "isa" / "check_objects.py"
OWN = "namespace ffrl::avx2 { template <class T> [[gnu::noinline]] T twice(T x) { return x + x; } }\n"
COMMON = "template <class T> [[gnu::noinline]] T thrice(T x) { return 3 * x; }\n"
USE_OWN = "int used(int x) { return ffrl::avx2::twice(x); }\n"
USE_BOTH = "int used(int x) { return ffrl::avx2::twice(x) + thrice(x); }\n"


def checked(folder: Path, name: str, source: str) -> subprocess.CompletedProcess[str]:
    (folder / name).write_text(source)
    subprocess.run(["g++", "-c", name, "-o", f"{name}.o"], cwd=folder, check=True)
    subprocess.run(["ar", "qc", "objects.a", f"{name}.o"], cwd=folder, check=True)
    command = [sys.executable, str(CHECK), "nm", "objects.a"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_a_weak_function_outside_the_namespace_is_found(tmp_path: Path) -> None:
    for name, source, code in (("own", OWN + USE_OWN, 0), ("both", OWN + COMMON + USE_BOTH, 1)):
        (tmp_path / name).mkdir()
        done = checked(tmp_path / name, "avx2.cpp", source)
        assert done.returncode == code, done.stderr
        assert ("namespace of its instruction set, in avx2: int thrice<int>(int)" in done.stderr) == bool(code)


def test_common_code_may_have_them_but_there_is_code_of_an_instruction_set(tmp_path: Path) -> None:
    done = checked(tmp_path, "dispatch.cpp", COMMON + "int used(int x) { return thrice(x); }\n")
    assert done.returncode == 1 and "ValueError: no object of an instruction set in the archive" in done.stderr
    assert checked(tmp_path, "avx2.cpp", OWN + USE_OWN).returncode == 0
