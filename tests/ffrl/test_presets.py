"""Presets, their overrides and the budget."""

import math
import time

import pytest

from ffrl.errors import UserError
from ffrl.presets import PRESETS, Preset, find_preset
from ffrl.training.budget import Budget, learning_rate


def test_overrides_are_typed() -> None:
    preset = Preset().override(["batch_size=96", "hidden=64,32", "collocation_points=1", "beta=0.5"])
    assert (preset.batch_size, preset.hidden, preset.collocation_points, preset.beta) == (96, (64, 32), 1, 0.5)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json_names(name: str) -> None:
    values = find_preset(name).to_dict()
    values["hidden"] = list(values["hidden"])
    assert Preset.from_dict(values) == find_preset(name)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("batch=96", "expected NAME=VALUE with NAME in system, autoencoder, latent_dim"),
        ("batch_size", "expected NAME=VALUE"),
        ("batch_size=many", "--set batch_size: expected a whole number, found 'many'"),
        ("batch_size=0", "batch_size: expected at least 1, found 0"),
        ("autoencoder=convnet", "autoencoder: expected mlp or conv or conv_large, found 'convnet'"),
        ("likelihood=laplace", "likelihood: expected bernoulli or normal, found 'laplace'"),
        ("prior=flow", "prior: expected diffusion or standard, found 'flow'"),
        ("substeps=0", "substeps: expected at least 1, found 0"),
        ("time_embedding=clock", "time_embedding: expected separable or sinusoidal or none, found 'clock'"),
        ("initial_weight=100", "initial_weight: expected 0 unless time_embedding is sinusoidal"),
        ("random_clock=maybe", "expected true or false"),
        ("hidden=512,x", "--set hidden"),
        ("learning_rate=nan", "learning_rate"),
        ("ema_decay=1", r"ema_decay: expected in \[0, 1\)"),
    ],
)
def test_wrong_overrides_are_named(assignment: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Preset().override([assignment])


def test_unknown_preset_names_those_that_exist() -> None:
    with pytest.raises(UserError, match=r"expected quickstart or weak or clocked or .* or isaac3d-paper, found 'big'"):
        find_preset("big")


def test_unknown_settings_in_a_file_are_named() -> None:
    with pytest.raises(UserError, match=r"found unknown \['extra'\]"):
        Preset.from_dict({**Preset().to_dict(), "extra": 1})


def test_budget_fractions() -> None:
    assert Budget(iterations=200).fraction(50, 1e9) == 0.25
    assert Budget(minutes=2).fraction(10**9, 30.0) == 0.25
    assert Budget(minutes=2).fraction(0, 999.0) == 1.0


@pytest.mark.parametrize(("iterations", "minutes"), [(None, None), (1, 1.0), (0, None), (None, 0.0), (None, math.inf)])
def test_wrong_budgets(iterations: int | None, minutes: float | None) -> None:
    with pytest.raises(UserError):
        Budget(iterations, minutes)


def test_processor_time_is_not_that_of_the_wall() -> None:
    wall, processor = Budget(minutes=1), Budget(minutes=1, processor_time=True)
    before = wall.clock(), processor.clock()
    time.sleep(0.2)
    assert wall.clock() - before[0] >= 0.2
    assert processor.clock() - before[1] < 0.1
    assert processor.describe() == "1 minutes of processor time"
    with pytest.raises(UserError, match="--processor-time: expected --minutes with it"):
        Budget(iterations=5, processor_time=True)


def test_learning_rate_warms_up_and_ends_at_zero() -> None:
    assert learning_rate(1.0, 0.0, iteration=0, warmup_iterations=100) == pytest.approx(0.01)
    assert learning_rate(1.0, 0.5, iteration=1000, warmup_iterations=100) == pytest.approx(0.5)
    assert learning_rate(1.0, 1.0, iteration=2000, warmup_iterations=100) == pytest.approx(0.0)
    assert learning_rate(1.0, 0.0, iteration=0, warmup_iterations=0) == 1.0
    assert learning_rate(1.0, 0.9, iteration=1000, warmup_iterations=100, schedule="constant") == 1.0
