"""The code compiled for one instruction set stays its own: nothing in it may be merged with another's by the linker."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ISA = Path(__file__).parents[2] / "csrc" / "core" / "isa"
FLAGS = {"baseline": "-march=x86-64-v2", "avx2": "-march=x86-64-v3", "avx512": "-march=x86-64-v4"}


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the flags are x86-64's")
@pytest.mark.parametrize("isa", FLAGS)
def test_no_weak_function_outside_the_namespace(isa: str, tmp_path: Path) -> None:
    """A weak function with a common name is kept once, from whichever file comes first, for all processors."""
    target = tmp_path / f"{isa}.o"
    flags = ["-std=c++20", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fopenmp", "-fPIC", FLAGS[isa]]
    subprocess.run(["g++", *flags, "-c", str(ISA / f"{isa}.cpp"), "-o", str(target)], check=True)
    symbols = subprocess.check_output(["nm", "-C", str(target)], text=True)
    weak = re.findall(r"^\S+ [WV] (.*)$", symbols, re.MULTILINE)
    # The reference to the exception-handling routine is data, and the same in all.
    assert [name for name in weak if f"ffrl::{isa}::" not in name and name != "DW.ref.__gxx_personality_v0"] == []
