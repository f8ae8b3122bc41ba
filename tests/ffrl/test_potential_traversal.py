"""PoFlow: the wave equation of clocked potentials, against automatic differentiation in double precision."""

import pytest
import torch
from torch.func import jacrev, vmap

from ffrl.data import Digits
from ffrl.presets import Preset
from ffrl.systems.potential_traversal import PotentialTraversal
from ffrl.systems.wave import second_time_derivative, wave_residual
from ffrl_fast import PotentialBank, laplacian, potential_field, reference
from small_systems import batch_of, frames_of, preset_of, system_of

K, DIM, ROWS = 3, 5, 4


def bank_of(depth: int, output: str) -> PotentialBank:
    torch.manual_seed(0)
    return PotentialBank(K, DIM, 7, depth=depth, out_activation=output, dtype=torch.float64)


def rows_of() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(ROWS, DIM, dtype=torch.float64, generator=generator)
    t = torch.tensor([1.0, 8.0, 3.0, 2.5], dtype=torch.float64)
    return z, t, torch.tensor([2, 0, 1, 2]), torch.tensor([1.0, 0.5, 2.0, 1.5], dtype=torch.float64)


@pytest.mark.parametrize(("depth", "output"), [(1, "identity"), (1, "tanh"), (2, "tanh")])
def test_the_residual_is_that_of_automatic_differentiation(depth: int, output: str) -> None:
    bank, (z, t, index, speed) = bank_of(depth, output), rows_of()

    def value(z: torch.Tensor, t: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        tau, dtau = reference.conditioning(t[None], bank.theta, bank.shape)
        every = reference.all_potentials(z[None], t[None], bank.theta, bank.shape, tau, dtau).u[:, 0]
        return every.gather(0, k[None])[0]

    second = vmap(jacrev(jacrev(value, argnums=1), argnums=1))(z, t, index)
    trace = vmap(jacrev(jacrev(value, argnums=0), argnums=0))(z, t, index).diagonal(dim1=1, dim2=2).sum(1)
    assert second.abs().min() > 1e-6
    torch.testing.assert_close(second_time_derivative(z, t, bank, index), second)
    torch.testing.assert_close(laplacian(z, t, bank, index=index), trace)
    torch.testing.assert_close(wave_residual(z, t, bank, index, speed), second - speed**2 * trace)


def test_the_second_derivative_is_that_of_differences() -> None:
    bank, (z, t, index, _) = bank_of(1, "tanh"), rows_of()
    u = [potential_field(z, t + h, bank, index=index).u for h in (-1e-3, 0, 1e-3)]
    differences = (u[0] - 2 * u[1] + u[2]) / 1e-6
    torch.testing.assert_close(second_time_derivative(z, t, bank, index), differences, rtol=1e-4, atol=1e-7)


def test_gradients_of_the_residual() -> None:
    bank, (z, t, index, speed) = bank_of(1, "identity"), rows_of()

    def residual(theta: torch.Tensor, z: torch.Tensor, speed: torch.Tensor) -> torch.Tensor:
        bank._parameters["theta"] = theta  # type: ignore[assignment]
        return wave_residual(z, t, bank, index, speed)

    inputs = (bank.theta.detach().clone(), z, speed)
    assert torch.autograd.gradcheck(residual, tuple(x.requires_grad_() for x in inputs))


def traversal(small: Preset, *changes: str) -> tuple[Preset, PotentialTraversal]:
    preset = preset_of("potential_traversal", small, *changes)
    system = system_of(preset)
    assert isinstance(system, PotentialTraversal)
    return preset, system


def test_the_loss_by_hand(small_preset: Preset, digits: Digits) -> None:
    preset, system = traversal(small_preset, "wave_weight=5", "beta=2", "substeps=3")
    with torch.no_grad():
        system.speed.copy_(torch.tensor([0.5, 1.0, 2.0]))
    batch, noise = batch_of(system, preset, digits), system.draw_noise(6, torch.Generator().manual_seed(2))
    found = system.objective(batch, noise, 1.0)
    posterior = system.autoencoder.encode(batch.frames[:, 0])
    z0 = posterior.sample(noise.posterior)
    wave = initial = reconstruction = torch.zeros(())
    for b in range(6):
        k = int(batch.index[b])
        path = [z0[[b]]]
        for t in range(1, 9):
            path.append(path[-1] + potential_field(path[-1], float(t), system.potentials, index=k).grad)
        step = int(noise.step[b])
        point = (path[step - 1], torch.tensor([float(step)]), system.potentials, torch.tensor([k]))
        wave = wave + wave_residual(*point, system.speed[[k]]).square()[0] / 6
        initial = initial + potential_field(path[0], 0.0, system.potentials, index=k).grad.square().sum() / 6
        for t, frame, weight in zip(batch.times[b], batch.frames[b], batch.weights, strict=True):
            image = torch.distributions.Bernoulli(
                logits=system.autoencoder.decode_logits(path[int(t)])[0], validate_args=False
            )
            reconstruction = reconstruction - weight * image.log_prob(frame).sum() / 6
    torch.testing.assert_close(found.wave, wave)
    torch.testing.assert_close(found.initial, initial)
    torch.testing.assert_close(found.reconstruction, reconstruction)
    kl = posterior.kl_to_standard_normal().mean()
    torch.testing.assert_close(found.loss, reconstruction + 2 * kl + 5 * (wave + initial))


def test_every_step_is_met(small_preset: Preset) -> None:
    _, system = traversal(small_preset)
    step = system.draw_noise(2000, torch.Generator().manual_seed(0)).step
    assert step.unique().tolist() == list(range(1, 9))


def test_training_lowers_the_residual(small_preset: Preset, digits: Digits) -> None:
    """Of potentials that move something: with the weight of the equation up, it is met better than without."""
    found = {}
    for weight in (0, 3000):
        preset, system = traversal(small_preset, f"wave_weight={weight}")
        adam = torch.optim.Adam(system.parameters(), lr=5e-3)
        generator = torch.Generator().manual_seed(0)
        batch = batch_of(system, preset, digits)
        for _ in range(80):
            adam.zero_grad()
            terms = system.objective(batch, system.draw_noise(6, generator), 1.0)
            terms.loss.backward()
            adam.step()
        found[weight] = terms.wave.item()
    assert found[3000] < 0.1 * found[0]


def test_its_path_has_a_clock_and_one_step_a_step(small_preset: Preset, digits: Digits) -> None:
    _, system = traversal(small_preset, "substeps=4")
    frames = frames_of(digits)
    path = system.own_path(frames, 1)
    steps = [potential_field(path[t - 1], float(t), system.potentials, index=1).grad for t in range(1, 9)]
    torch.testing.assert_close(path[1:] - path[:-1], torch.stack(steps))
    assert system.forces is None
