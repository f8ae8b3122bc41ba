"""What all compared systems have in common: training, resuming, codes, paths and the weights of the joint bound."""

import csv
import io
import json
import math
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch.distributions import Bernoulli, Laplace, Normal

from few import few
from ffrl.cli import main
from ffrl.data import DIGIT_FORMAT, Digits, find_dataset
from ffrl.errors import UserError
from ffrl.metrics.likelihood import CapPassedError, joint_bound, of_flow_model
from ffrl.models import FlowModel
from ffrl.models.autoencoder import Posterior
from ffrl.presets import OWN_SETTINGS, Preset, find_preset
from ffrl.report.contents import RunContents
from ffrl.report.page import trained
from ffrl.run import RunConfig, load_flow, load_trained
from ffrl.systems import SYSTEMS, build
from ffrl.systems.topographic_vae import TopographicVAE
from ffrl.systems.vae import VAE
from ffrl.training import Budget, Trainer
from ffrl.training.checkpoint import load_checkpoint
from ffrl.training.processes import connect
from small_systems import SETTINGS, batch_of, frames_of, preset_of, system_of

every_system = pytest.mark.parametrize("name", SYSTEMS)


def quiet() -> Console:
    return Console(file=io.StringIO())


def trainer(preset: Preset, digits: Digits, run: Path, iterations: int = 9, accumulate: int = 1) -> Trainer:
    return Trainer(preset, Budget(iterations=iterations), few(digits), run, 3, accumulate=accumulate)


def test_every_system_is_tested() -> None:
    assert SETTINGS.keys() == SYSTEMS.keys()


@every_system
def test_training_lowers_the_loss(name: str, small_preset: Preset, digits: Digits, tmp_path: Path) -> None:
    run = trainer(preset_of(name, small_preset), digits, tmp_path, 60)
    losses = [run.step().loss.item() for _ in range(60)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


@every_system
def test_interrupted_and_resumed_ends_with_the_same_bits(
    name: str, small_preset: Preset, digits: Digits, tmp_path: Path
) -> None:
    preset = preset_of(name, small_preset)
    trainer(preset, digits, tmp_path / "whole").train(quiet())
    trainer(preset, digits, tmp_path / "parts").train(quiet(), stop_at=4)
    torch.manual_seed(77)
    trainer(preset, digits, tmp_path / "parts").train(quiet())
    found, expected = (load_checkpoint(tmp_path / run).tensors for run in ("parts", "whole"))
    assert found.keys() == expected.keys()
    for tensor, value in expected.items():
        assert torch.equal(found[tensor], value), tensor


@every_system
def test_the_log_has_the_terms_as_columns(name: str, small_preset: Preset, digits: Digits, tmp_path: Path) -> None:
    run = trainer(preset_of(name, small_preset), digits, tmp_path)
    run.train(quiet())
    (row,) = csv.DictReader((tmp_path / "log.csv").read_text().splitlines())
    assert list(row) == ["iteration", "seconds", "learning_rate", *run.model.terms._fields]
    assert all(math.isfinite(float(value)) for value in row.values())


@every_system
def test_in_bfloat16_the_losses_are_summed_in_float32(
    name: str, small_preset: Preset, digits: Digits, tmp_path: Path
) -> None:
    preset, fabric = preset_of(name, small_preset), connect("cpu", "bf16-mixed")
    low = Trainer(preset, Budget(iterations=9), few(digits), tmp_path / "low", 3, fabric)
    full = trainer(preset, digits, tmp_path / "full")
    for _ in range(3):
        found, expected = low.step()._asdict(), full.step()._asdict()
        for term in ("loss", "reconstruction", "kl"):
            assert found[term].dtype == torch.float32
            assert not torch.equal(found[term].bfloat16().float(), found[term]), term
            assert found[term].item() == pytest.approx(expected[term].item(), rel=0.1)


@pytest.mark.parametrize("name", [name for name in SYSTEMS if name != "factor_vae"])
def test_accumulated_batches_are_one_batch(name: str, small_preset: Preset, digits: Digits, tmp_path: Path) -> None:
    """FactorVAE permutes codes over the batch, so there the batch is one body."""
    small = preset_of(name, small_preset)
    parts = trainer(small, digits, tmp_path / "parts", accumulate=2)
    whole = trainer(small.override(["batch_size=12"]), digits, tmp_path / "whole")
    for _ in range(4):
        found, expected = parts.step(), whole.step()
        for term, value in expected._asdict().items():
            assert found._asdict()[term].item() == pytest.approx(value.item(), rel=2e-4, abs=1e-6), term


@every_system
def test_codes_images_and_paths_have_their_shapes(name: str, small_preset: Preset, digits: Digits) -> None:
    system, frames = system_of(preset_of(name, small_preset)), frames_of(digits)
    codes = system.codes(frames)
    images = system.decode(codes)
    assert codes.shape == (9, 3, 6)
    assert images.shape == frames.shape
    assert bool(((images >= 0) & (images <= 1)).all())
    path = system.own_path(frames, 1)
    assert (path is None) == (system.sees is None)
    if path is not None:
        assert path.shape == codes.shape
        torch.testing.assert_close(path[0], codes[0])


@every_system
def test_what_a_path_sees_of_a_sequence(name: str, small_preset: Preset, digits: Digits) -> None:
    """A path that sees x_0 alone is the same whatever follows."""
    system, frames = system_of(preset_of(name, small_preset)), frames_of(digits)
    path = system.own_path(frames, 1)
    if path is None:
        return
    changed = system.own_path(torch.cat([frames[:1], frames[1:].flip(0)]), 1)
    assert changed is not None
    assert torch.equal(changed, path) == (system.sees == "x_0 and k")


@pytest.mark.parametrize("name", ["flow", "potential_traversal"])
def test_weights_of_a_flow_are_those_of_the_joint_bound(name: str, small_preset: Preset, digits: Digits) -> None:
    system, frames = system_of(preset_of(name, small_preset)), frames_of(digits)
    assert isinstance(system, FlowModel)
    index, generator = torch.full((3,), 2), torch.Generator().manual_seed(4)
    weights = torch.stack([system.log_weights(frames, 2, generator) for _ in range(5)])
    assert weights.dtype == torch.float64
    expected = joint_bound(
        of_flow_model(system, "bernoulli"),
        frames,
        index,
        samples=5,
        likelihood="bernoulli",
        generator=torch.Generator().manual_seed(4),
    ).rows
    torch.testing.assert_close(weights.logsumexp(0) - math.log(5), expected)


@pytest.mark.parametrize("name", ["vae", "factor_vae", "slow_vae"])
@torch.no_grad()
def test_weights_of_image_systems_by_hand(name: str, small_preset: Preset, digits: Digits) -> None:
    system, frames = system_of(preset_of(name, small_preset)), frames_of(digits)
    assert isinstance(system, VAE)
    found = system.log_weights(frames, 0, torch.Generator().manual_seed(4))
    coder = system.autoencoder
    mean, log_variance = (x.view(9, 3, 6) for x in coder.encode(frames.flatten(0, 1)))
    q = Normal(mean, torch.exp(0.5 * log_variance))
    z = mean + q.stddev * torch.empty_like(mean).normal_(generator=torch.Generator().manual_seed(4))
    image = Bernoulli(logits=coder.decode_logits(z), validate_args=False)
    expected = image.log_prob(frames).sum((0, 2, 3, 4)) - q.log_prob(z).sum((0, 2))
    standard = Normal(0.0, 1.0)
    if name == "slow_vae":
        chain = Laplace(z[:-1], 1 / 6).log_prob(z[1:])
        expected += standard.log_prob(z[0]).sum(1) + chain.sum((0, 2))
    else:
        expected += standard.log_prob(z).sum((0, 2))
    torch.testing.assert_close(found, expected.double(), rtol=1e-5, atol=1e-3)


@torch.no_grad()
def test_weights_of_the_topographic_vae_by_hand(small_preset: Preset, digits: Digits) -> None:
    system, frames = system_of(preset_of("topographic_vae", small_preset)), frames_of(digits)
    assert isinstance(system, TopographicVAE)
    found = system.log_weights(frames, 0, torch.Generator().manual_seed(4))
    generator = torch.Generator().manual_seed(4)
    means, log_variances = (x.view(9, 3, 2, 6) for x in system.autoencoder.encode(frames.flatten(0, 1)))
    expected, latents = torch.zeros(3), []
    for part in range(2):
        q = Normal(means[:, :, part], torch.exp(0.5 * log_variances[:, :, part]))
        latents.append(q.mean + q.stddev * torch.empty_like(q.mean).normal_(generator=generator))
        expected += (Normal(0.0, 1.0).log_prob(latents[-1]) - q.log_prob(latents[-1])).sum((0, 2))
    logits = system.autoencoder.decode_logits(system.capsules(latents[0], latents[1] ** 2))
    expected += Bernoulli(logits=logits, validate_args=False).log_prob(frames).sum((0, 2, 3, 4))
    torch.testing.assert_close(found, expected.double(), rtol=1e-5, atol=1e-3)


@every_system
def test_weights_that_are_no_numbers_are_refused(name: str, small_preset: Preset, digits: Digits) -> None:
    system = system_of(preset_of(name, small_preset))
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.fill_(math.nan)
    with pytest.raises(CapPassedError, match="found nan"):
        system.log_weights(frames_of(digits), 0, torch.Generator())


def test_the_vae_loss_by_hand(small_preset: Preset, digits: Digits) -> None:
    """Mean over all T + 1 frames, of which those after frame 0 stand for 8/3 each; β 4."""
    preset = preset_of("vae", small_preset, "beta=4")
    system = system_of(preset)
    assert isinstance(system, VAE)
    batch = batch_of(system, preset, digits)
    noise = system.draw_noise(6, torch.Generator().manual_seed(2))
    found = system.objective(batch, noise, 1.0)._asdict()
    reconstruction = kl = torch.zeros(())
    for b in range(6):
        for m, weight in enumerate([1.0, 8 / 3, 8 / 3, 8 / 3]):
            image = batch.frames[b, m]
            posterior = system.autoencoder.encode(image[None])
            z = posterior.sample(noise.normal[b, m][None])
            log_p = Bernoulli(logits=system.autoencoder.decode_logits(z)[0], validate_args=False).log_prob(image)
            reconstruction = reconstruction - weight * log_p.sum() / 9 / 6
            kl = kl + weight * _kl(posterior) / 9 / 6
    for term, value in {"reconstruction": reconstruction, "kl": kl, "loss": reconstruction + 4 * kl}.items():
        torch.testing.assert_close(found[term], value, rtol=1e-5, atol=1e-4)


def _kl(posterior: Posterior) -> torch.Tensor:
    q = Normal(posterior.mean, torch.exp(0.5 * posterior.log_variance))
    return torch.distributions.kl_divergence(q, Normal(0.0, 1.0)).sum()


@pytest.mark.parametrize("system", [None, *OWN_SETTINGS])
def test_settings_of_another_system_are_refused(system: str | None) -> None:
    changes = [f"system={system}"] if system else []
    for owner, names in OWN_SETTINGS.items():
        for name in names:
            if owner != system:
                with pytest.raises(UserError, match=f"{name}: expected .* unless system is {owner}, found"):
                    Preset().override([*changes, f"{name}=8"])
    for name in OWN_SETTINGS.get(system or "", ()):
        assert getattr(Preset().override([*changes, f"{name}=8"]), name) == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["system=gan"], "system: expected flow or vae or factor_vae or .* found 'gan'"),
        (["system=vae", "supervision=weak"], "supervision: expected full with system vae, found 'weak'"),
        (["system=potential_traversal", "flow=velocity"], "flow: expected potential with system potential_traversal"),
        (
            ["system=topographic_vae", "capsule_length=5"],
            "capsule_length: expected a divisor of latent_dim 32, found 5",
        ),
        (["system=topographic_vae", "capsule_length=0"], "capsule_length: expected at least 1, found 0"),
        (["system=slow_vae", "transition_rate=0"], "transition_rate: expected above 0, found 0.0"),
        (["system=factor_vae", "tc_weight=-1"], "tc_weight: expected at least 0, found -1.0"),
    ],
)
def test_settings_without_sense_are_refused(changes: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Preset().override(changes)


@pytest.mark.parametrize("preset", ["quickstart", "sprites", "shapes", "mnist-paper"])
def test_every_system_goes_on_the_preset_of_the_data(preset: str) -> None:
    format_of = {name: find_dataset(name).format for name in ("sprites", "shapes")}
    format_of |= dict.fromkeys(("quickstart", "mnist-paper"), DIGIT_FORMAT)
    for name in SYSTEMS:
        changes = [
            f"system={name}",
            *(["capsule_length=12"] if (name, preset) == ("topographic_vae", "mnist-paper") else []),
        ]
        with torch.device("meta"):  # no weights: the paper's autoencoder has 71 million
            system = build(find_preset(preset).override(changes), format_of[preset])
        assert type(system) is SYSTEMS[name]


def test_a_run_of_a_system_is_loaded_as_it_was_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = ["--set", "hidden=16,8", "--set", "latent_dim=4", "--iterations", "2", "--threads", "1"]
    run = tmp_path / "vae"
    with pytest.raises(SystemExit) as end:
        main(["train", "--set", "system=vae", *tiny, "--out", str(run)])
    assert not end.value.code
    config = RunConfig.load(run)
    system, iteration = load_trained(run, config, DIGIT_FORMAT)
    assert (type(system), iteration) == (VAE, 2)
    with pytest.raises(UserError, match="expected a system with a flow for each transformation, found vae"):
        load_flow(run, config, DIGIT_FORMAT)
    with pytest.raises(SystemExit) as end:
        main(["evaluate", str(run)])
    assert end.value.code == 2
    assert "expected a system with a flow" in capsys.readouterr().err
    assert not (run / "evaluation.json").exists()


def test_a_report_names_the_system() -> None:
    configs = [
        {"data": "digits", "preset": Preset().override([f"system={name}"]).to_dict()} for name in ("flow", "vae")
    ]
    runs = [RunContents("run", Path("run"), config, None, None, (), ()) for config in configs]
    assert "separable potentials, full supervision" in trained(runs[:1])
    assert trained(runs[1:]) == "Trained on digits, latent dimension 32, system vae."
    assert "potentials" not in trained(runs)


def test_a_run_from_before_there_were_systems_is_refused_in_one_line(tmp_path: Path) -> None:
    preset = Preset().to_dict()
    values = {"seed": 0, "data": "digits", "root": None, "data_checksum": "", "versions": {}, "commit": None}
    more = {"accumulate": 1, "processes": 1, "precision": "32-true"}
    budget = {"iterations": 1, "minutes": None, "processor_time": False}
    del preset["system"]
    (tmp_path / "config.json").write_text(json.dumps({**values, **more, "budget": budget, "preset": preset}))
    with pytest.raises(UserError, match=r"config\.json: expected the names of Preset, found .* missing \['system'\]"):
        RunConfig.load(tmp_path)


def test_the_flow_system_is_the_flow_model_with_the_same_weights(small_preset: Preset) -> None:
    torch.manual_seed(5)
    expected = FlowModel(small_preset, DIGIT_FORMAT).state_dict()
    torch.manual_seed(5)
    found = build(small_preset, DIGIT_FORMAT).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
