from __future__ import annotations

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

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
