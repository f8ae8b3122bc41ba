"""Eight steps along the flow, forward and backward."""

from collections.abc import Callable

import pytest

from bench.variants import names

SIZES = [(64, 128), (324, 1024)]  # D, B


@pytest.mark.parametrize(("dim", "rows"), SIZES)
@pytest.mark.parametrize(("work", "name"), names("integrate", "integrate_force"))
def test_integrate(run_variant: Callable[..., None], work: str, name: str, dim: int, rows: int) -> None:
    run_variant(name, work, dim, rows)
