from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the cores: threads that wait must not spin. OpenMP asks when torch loads it, here and in children.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

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
