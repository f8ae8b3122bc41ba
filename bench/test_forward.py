"""One evaluation without gradients."""

from collections.abc import Callable

import pytest

from bench.variants import names

SIZES = [(16, 1024), (64, 16), (64, 128), (64, 1024), (64, 8192), (324, 128), (324, 1024)]  # D, B


@pytest.mark.parametrize(("dim", "rows"), SIZES)
@pytest.mark.parametrize(("work", "name"), names("forward"))
def test_forward(run_variant: Callable[..., None], work: str, name: str, dim: int, rows: int) -> None:
    run_variant(name, work, dim, rows)
