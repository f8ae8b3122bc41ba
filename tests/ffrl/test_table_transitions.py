"""Fitted transitions against problems whose answer is known and against the objectives that they minimise."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ffrl.table.transitions import RIDGE, AffineMap, ConstantStep

STEPS, ROWS, DIM = 5, 40, 3


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rolled(matrix: Tensor, offset: Tensor, z0: Tensor) -> Tensor:
    path = [z0]
    for _ in range(STEPS):
        path.append(torch.stack([matrix @ z + offset for z in path[-1]]))
    return torch.stack(path)


def test_a_constant_step_is_found() -> None:
    z0, step = draw(ROWS, DIM), torch.tensor([0.5, -2.0, 0.0], dtype=torch.float64)
    codes = torch.stack([z0 + t * step for t in range(STEPS + 1)])
    found = ConstantStep.fit(codes)
    torch.testing.assert_close(found.step, step)
    torch.testing.assert_close(found.path(z0, STEPS), codes)


def test_a_constant_step_is_the_least_squares_solution() -> None:
    codes = draw(STEPS + 1, ROWS, DIM)
    times = torch.arange(1, STEPS + 1, dtype=torch.float64).repeat_interleave(ROWS)[:, None]
    expected = torch.linalg.lstsq(times, (codes[1:] - codes[0]).flatten(0, 1)).solution[0]
    torch.testing.assert_close(ConstantStep.fit(codes).step, expected)


def test_an_affine_map_is_found() -> None:
    matrix = torch.linalg.matrix_exp(0.2 * draw(DIM, DIM, seed=1))
    offset = torch.tensor([0.3, 0.0, -1.0], dtype=torch.float64)
    codes = rolled(matrix, offset, draw(ROWS, DIM))
    found = AffineMap.fit(codes, ridge=1e-12)
    torch.testing.assert_close(found.matrix, matrix, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.offset, offset, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.path(codes[0], STEPS), codes, rtol=1e-5, atol=1e-5)


def test_an_affine_map_is_where_the_gradient_of_its_objective_vanishes() -> None:
    codes, ridge = draw(STEPS + 1, ROWS, DIM), 0.3
    found = AffineMap.fit(codes, ridge)
    matrix, offset = found.matrix.requires_grad_(), found.offset.requires_grad_()
    before, after = codes[:-1].flatten(0, 1), codes[1:].flatten(0, 1)
    variance = before.var(dim=0, correction=0).mean()
    loss = (after - before @ matrix.T - offset).square().sum()
    loss = loss + len(before) * ridge * variance * (matrix - torch.eye(DIM)).square().sum()
    loss.backward()
    assert matrix.grad is not None and offset.grad is not None and loss > 1
    torch.testing.assert_close(matrix.grad, torch.zeros_like(matrix), atol=1e-9, rtol=0)
    torch.testing.assert_close(offset.grad, torch.zeros_like(offset), atol=1e-9, rtol=0)


def test_the_ridge_does_not_depend_on_the_scale_of_codes_and_leaves_the_mean_step() -> None:
    codes = draw(STEPS + 1, ROWS, DIM)
    small, large = AffineMap.fit(1e-3 * codes), AffineMap.fit(1e3 * codes)
    torch.testing.assert_close(small.matrix, large.matrix)
    torch.testing.assert_close(1e6 * small.offset, large.offset)
    stiff = AffineMap.fit(codes, ridge=1e12)
    torch.testing.assert_close(stiff.matrix, torch.eye(DIM, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(stiff.offset, (codes[1:] - codes[:-1]).mean(dim=(0, 1)), atol=1e-6, rtol=0)


def test_fewer_sequences_than_dimensions_and_codes_that_do_not_vary() -> None:
    few = draw(2, 2, 10)
    assert AffineMap.fit(few, RIDGE).path(few[0], 50).isfinite().all()
    alike = torch.ones(STEPS + 1, ROWS, DIM)
    for fit in (AffineMap.fit, ConstantStep.fit):
        path = fit(alike).path(alike[0], STEPS)
        assert path.dtype == torch.float32
        torch.testing.assert_close(path, alike)


@pytest.mark.parametrize("shape", [(6, 3), (1, 4, 3), (6, 0, 3), (6, 4, 0)])
@pytest.mark.parametrize("fit", [AffineMap.fit, ConstantStep.fit])
def test_codes_of_another_shape(fit: Callable[[Tensor], object], shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"codes: expected shape \(T \+ 1, N, D\), T ≥ 1, nowhere 0, found \("):
        fit(torch.zeros(shape))


@pytest.mark.parametrize("ridge", [0.0, -1.0, float("nan")])
def test_a_ridge_is_above_zero(ridge: float) -> None:
    with pytest.raises(ValueError, match="ridge: expected a number above 0"):
        AffineMap.fit(draw(STEPS + 1, ROWS, DIM), ridge)
