"""Threads that share the units of a tile, under ThreadSanitizer: each sees what the phase before has written."""

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_no_data_races(tmp_path):
    program = tmp_path / "helpers_race"
    command = ["g++", "-std=c++20", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fopenmp", "-fsanitize=thread"]
    sources = [CSRC / "core" / "helpers.cpp", HERE / "helpers_race.cpp"]
    built = subprocess.run([*command, f"-I{CSRC}", *sources, "-o", program], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    run = subprocess.run([program], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr
