"""A training step of the paper's MNIST setting, ours against the public code's form: ``python -m bench.paper_step``.

Batch 128, T = 8, K = 3, D = 324, an autoencoder of 70.9 million parameters; forward, losses, backward, Adam, on a batch
of real digits that is drawn beforehand. Both have the same weights, the same batch and the same loss, preset
`mnist-paper-code`: every term and every gradient is compared before anything is timed.

The parts of both steps are timed as well, each by itself with its own gradients: they say where the time goes.
"""

from __future__ import annotations

import argparse
import csv
import gc
from pathlib import Path
from typing import Any

import torch

from bench.environment import metadata, use_threads
from bench.paper_problem import PaperStep
from bench.timing import Timing, interleave
from ffrl.data import DIGIT_FORMAT
from ffrl.models import FlowModel
from ffrl.presets import Preset, find_preset

PARTS = ("encoder", "flow", "decoder", "Adam")
PART_TITLES = {
    "encoder": "encoder",
    "flow": "flow: path, residual, force, initial condition, row sums and their KL",
    "decoder": "decoder of nine frames and its loss",
    "Adam": "Adam",
}
OTHERS = {
    "ours_bf16": "our step under bf16 autocast, not the same results",
    "paper_code, decoder at once": "the public code's decoder, all nine frames at once",
}
DOCS = Path(__file__).parents[1] / "docs"
PAGE, FOLDER = DOCS / "performance.md", DOCS / "benchmarks" / "cpu-paper-step"
MARKERS = ("<!-- paper step -->\n", "<!-- end of paper step -->")


def measure(preset: Preset, samples: int) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """A row a call, and the differences found before the timing."""
    problem = PaperStep(preset)
    differences = problem.compare()
    gc.collect()
    # A first step makes Adam's state; all calls were warmed up by then but those in bfloat16 and of single parts.
    calls = problem.steps()
    for call in calls.values():
        call()
    calls |= problem.parts()
    timings = interleave(calls, seconds=0.0, least=samples, inner=1)
    return [_row(name, t) for name, t in timings.items()], differences


def _row(name: str, t: Timing) -> dict[str, Any]:
    return {"call": name, "median_s": t.median, "min_s": t.minimum, "samples": len(t.samples), "cores": t.cores}


def sentence(rows: list[dict[str, Any]]) -> str:
    """What docs/performance.md says of the run."""
    median, least = ({r["call"]: float(r[key]) for r in rows} for key in ("median_s", "min_s"))
    a, b = median["ours"], median["paper_code"]
    whole = sum(median[f"ours, {part}"] for part in PARTS)
    share = {part: f"{100 * median[f'ours, {part}'] / whole:.1f} %" for part in PARTS}
    faster = median["paper_code, flow"] / median["ours, flow"]
    gained = (median["paper_code, flow"] - median["ours, flow"]) / (b - a)
    return (
        f"A step takes {a:.2f} s, and {b:.2f} s in the public code's form: {b / a:.2f} × (best samples "
        f"{least['paper_code'] / least['ours']:.2f} ×).\n"
        f"The flow, which is the engine's part, is {share['flow']} of our step. It is {faster:.1f} × faster than "
        f"theirs, and {100 * gained:.0f} % of the time gained.\n"
        f"The decoder is {share['decoder']}, the encoder {share['encoder']}, Adam {share['Adam']}. Under bf16 autocast "
        f"our step is {a / median['ours_bf16']:.2f} × as fast.\n"
    )


def markdown(rows: list[dict[str, Any]], facts: dict[str, Any]) -> str:
    """The whole page of a run."""
    from bench.report import machine

    median, least = ({r["call"]: 1e3 * float(r[key]) for r in rows} for key in ("median_s", "min_s"))

    def line(title: str, name: str, whole: float) -> str:
        a, b = f"ours{name}", f"paper_code{name}"
        return (
            f"| {title} | {median[a]:,.0f} | {least[a]:,.0f} | {100 * median[a] / whole:.1f} % | {median[b]:,.0f} "
            f"| {least[b]:,.0f} | {median[b] / median[a]:.2f} × | {least[b] / least[a]:.2f} × |"
        )

    for table in (median, least):
        for who in ("ours", "paper_code"):
            table[f"{who}, sum"] = sum(table[f"{who}, {part}"] for part in PARTS)
    whole = median["ours, sum"]
    return "\n".join(
        [
            f"{machine(facts)}. `{facts['command']}`",
            "",
            f"One training step of `mnist-paper-code`: batch {facts['batch_size']}, T = {DIGIT_FORMAT.num_steps}, "
            f"D = {facts['latent_dim']}, K = {len(DIGIT_FORMAT)}, {facts['parameters'] / 1e6:.1f} million parameters "
            f"in the autoencoder. Medians and best of {facts['samples']} interleaved samples, milliseconds. Before the "
            f"timing the terms of both losses agreed to {facts['loss_difference']:.0e}, the gradients of all "
            f"parameters to {facts['gradient_difference']:.0e}, relative, in norm.",
            "",
            "| | ours | best | share of the parts | the public code's form | best | times ours | by best samples |",
            "|---|---|---|---|---|---|---|---|",
            line("**the step**", "", whole),
            *(line(PART_TITLES[part], f", {part}", whole) for part in PARTS),
            line("sum of the parts", ", sum", whole),
            "",
            "Each part was timed by itself, with its gradients.",
            "",
            "| | median, ms | best, ms |",
            "|---|---|---|",
            *(f"| {title} | {median[name]:,.0f} | {least[name]:,.0f} |" for name, title in OTHERS.items()),
            "",
        ]
    )


def read(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run that was written."""
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def with_sentence(page: str, rows: list[dict[str, Any]]) -> str:
    """docs/performance.md with the run's sentence between its markers."""
    before, _, rest = page.partition(MARKERS[0])
    _, _, after = rest.partition(MARKERS[1])
    return before + MARKERS[0] + sentence(rows) + MARKERS[1] + after


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.paper_step", description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--samples", type=int, default=3, help="of each call")
    parser.add_argument("--out", type=Path, default=Path("bench/results/paper_step"))
    parser.add_argument("--docs", action="store_true", help="write into docs/, results and sentence, instead of --out")
    a = parser.parse_args()
    use_threads(a.threads)

    from bench.fma_peak import measure as measure_peak
    from bench.report import write_table
    from ffrl_fast import _core

    preset = find_preset("mnist-paper-code")
    peak = measure_peak(_core.isa()).flops / 1e9
    rows, differences = measure(preset, a.samples)
    with torch.device("meta"):
        parameters = sum(p.numel() for p in FlowModel(preset, DIGIT_FORMAT).autoencoder.parameters())
    command = f"python -m bench.paper_step --threads {a.threads} --samples {a.samples}"
    facts = metadata(a.threads, command=command, dtype="float32", peak_gflops=peak, samples=a.samples, **differences)
    facts |= {"batch_size": preset.batch_size, "latent_dim": preset.latent_dim, "parameters": parameters}
    text = markdown(rows, facts)
    write_table(rows, facts, text, FOLDER if a.docs else a.out)
    if a.docs:
        PAGE.write_text(with_sentence(PAGE.read_text(), read(FOLDER)))
    print(text)
    print(sentence(rows))


if __name__ == "__main__":
    main()
