from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the cores: threads that wait must not spin. OpenMP asks when torch loads it, here and in children.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
    # torch.compile's cache does not know the operators' versions: what an older one left must not be tested. One for
    # all workers, who inherit it.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp(prefix="ffrl_fast_tests_inductor_")
    atexit.register(shutil.rmtree, os.environ["TORCHINDUCTOR_CACHE_DIR"], ignore_errors=True)

import torch
from hypothesis import HealthCheck, settings

# The benchmarks are importable; last on the path, so that the source tree does not shadow the installed ffrl_fast.
sys.path.append(str(Path(__file__).parents[1]))

# "quick" is the default; CI repeats the suite with "thorough". Every draw is replayable: hypothesis prints its seed.
settings.register_profile("quick", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.fixture(params=["cpu", "reference"], scope="session")
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(autouse=True, scope="module")
def _seed() -> None:
    torch.manual_seed(0)
