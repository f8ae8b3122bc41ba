"""Both forms of the paper's step compute the same, and what is said of their times follows from them."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from bench import paper_step
from bench.paper_code import as_ours
from bench.paper_problem import PaperStep
from bench.paper_step import FOLDER, MARKERS, PAGE, PARTS, measure, read, sentence, with_sentence
from ffrl.presets import Preset, find_preset


@pytest.fixture
def small() -> Preset:
    sizes = {"latent_dim": 10, "conv_width": 10, "potential_width": 10, "batch_size": 6}
    return dataclasses.replace(find_preset("mnist-paper-code"), **sizes)


def test_losses_and_gradients_are_equal(small: Preset) -> None:
    """Also where the flow is long: potentials and forces three times as large as they begin."""
    problem = PaperStep(small)
    differences = problem.compare()
    assert differences["loss_difference"] < 1e-5 and differences["gradient_difference"] < 1e-5
    problem.adam.zero_grad()
    for adam in problem.adams:
        adam.zero_grad()
    with torch.no_grad():
        for parameter in problem.paper_code.flow.parameters():
            parameter.mul_(3)
    problem.ours.load_state_dict(as_ours(problem.paper_code.state_dict()))
    differences = problem.compare()
    assert differences["loss_difference"] < 1e-5 and differences["gradient_difference"] < 1e-4


def test_a_step_moves_both_models_alike(small: Preset) -> None:
    problem = PaperStep(small)
    before = {name: value.clone() for name, value in problem.ours.state_dict().items()}
    steps = problem.steps()
    for _ in range(2):
        steps["ours"]()
        steps["paper_code"]()
    theirs = as_ours(problem.paper_code.state_dict())
    for name, value in problem.ours.state_dict().items():
        assert (value - before[name]).abs().max() > 1e-5, name
        # Adam's step is the rate times a sign where gradients are all but zero.
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=4 * small.learning_rate)
        assert (value - theirs[name]).norm() < 1e-2 * (value - before[name]).norm(), name


def test_other_losses_are_not_timed(small: Preset) -> None:
    problem = PaperStep(small)
    problem.preset = dataclasses.replace(small, hj_weight=8.01)
    with pytest.raises(ArithmeticError, match="loss hj: relative difference"):
        problem.compare()
    problem = PaperStep(small)
    with torch.no_grad():
        problem.ours.autoencoder.decoder[3].weight.mul_(1.01)
    with pytest.raises(ArithmeticError, match="relative difference"):
        problem.compare()


def test_a_measured_size_makes_a_page(small: Preset) -> None:
    rows, differences = measure(small, samples=1)
    median = {row["call"]: row["median_s"] for row in rows}
    assert {"ours", "paper_code", "ours_bf16"} <= median.keys()
    assert {f"{who}, {part}" for who in ("ours", "paper_code") for part in PARTS} <= median.keys()
    assert all(seconds > 0 for seconds in median.values())
    facts = {"processor": "a processor", "threads": 1, "isa": "avx512", "dtype": "float32", "peak_gflops": 100.0}
    facts |= {"torch": "2", "jax": None, "date": "2026-01-01", "command": "python -m bench.paper_step", "samples": 1}
    facts |= {"batch_size": 6, "latent_dim": 10, "parameters": 70.9e6, **differences}
    assert f"| {1e3 * median['ours']:,.0f} |" in paper_step.markdown(rows, facts)


def test_the_sentence_is_counted_from_the_rows() -> None:
    ours = {"": 4.0, ", encoder": 0.5, ", flow": 0.1, ", decoder": 3.0, ", Adam": 0.4}
    paper_code = {"": 6.0, ", encoder": 0.6, ", flow": 0.4, ", decoder": 4.0, ", Adam": 1.0}
    times = {f"ours{name}": s for name, s in ours.items()} | {f"paper_code{name}": s for name, s in paper_code.items()}
    text = sentence([{"call": n, "median_s": s, "min_s": 0.5 * s} for n, s in (times | {"ours_bf16": 2.0}).items()])
    for found in (
        "4.00 s, and 6.00 s",
        "1.50 ×",
        "2.5 % of our step",
        "4.0 × faster",
        "15 % of the time",
        "75.0 %, the enc",
    ):
        assert found in text, found


def test_the_docs_say_what_was_measured() -> None:
    page = PAGE.read_text()
    assert MARKERS[0] in page and MARKERS[1] in page
    assert with_sentence(page, read(FOLDER)) == page
