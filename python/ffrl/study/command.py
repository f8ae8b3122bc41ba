"""The command: ffrl study."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from ffrl.campaign.conduct import conduct
from ffrl.campaign.page import Page
from ffrl.campaign.runs import Plan
from ffrl.data import find_dataset
from ffrl.files import read_json, write_json, write_text
from ffrl.study.results import as_json, as_markdown
from ffrl.study.runs import StudyRun
from ffrl.study.variants import FLOWS, all_variants, chosen
from ffrl.training.budget import Budget


def study(
    out: Annotated[Path, typer.Option(help="Folder of the study.")] = Path("runs/study"),
    minutes: Annotated[float, typer.Option(help="Minutes of training time of each run, on one thread.")] = 3.0,
    processor_time: Annotated[
        bool,
        typer.Option(
            "--processor-time", help="Count the minutes of processor time: fair on a machine that does other work too."
        ),
    ] = False,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, 0 and up, of each variant.")] = 3,
    data: Annotated[str, typer.Option(help="Data set, one of ffrl train's.")] = "digits",
    root: Annotated[Path | None, typer.Option(help="Folder of the data set's files, if it has any.")] = None,
    only: Annotated[
        str | None, typer.Option(metavar="NAME,…", help=f"Only these variants, or flows: {', '.join(FLOWS)}.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at once, each a process of one thread.")] = 1,
    sequences: Annotated[int, typer.Option(min=1, help="At most so many held-out sequences of each kind.")] = 1_000,
    docs: Annotated[
        Path | None, typer.Option(help="A page whose table, between its marks, is written anew.", show_default=False)
    ] = None,
) -> None:
    """Compare what makes flows compose: train every variant for an equal time, measure all, write tables.

    Interrupted, it goes on with the same command: what is done is not done again.
    """
    page = None if docs is None else Page(docs, "study")
    loaded = find_dataset(data, root)
    budget = Budget(minutes=minutes, processor_time=processor_time)
    plan = Plan(out, budget, data, root, loaded.checksum(), sequences)
    variants = chosen(all_variants(loaded), only)
    # Seed by seed, so that a study cut short compares all variants, and a slow hour meets them all.
    runs = [StudyRun(plan, seed, variant) for seed in range(seeds) for variant in variants]

    def write(failed: Mapping[str, str]) -> list[Path]:
        found = as_json(plan, runs, failed)
        files = [out / "study.json", out / "study.md"]
        write_json(files[0], found)
        write_text(files[1], as_markdown(found))
        return files

    def publish() -> list[Path]:
        return [] if page is None else page.write(as_markdown(read_json(out / "study.json")))

    conduct(out, runs, jobs, _described, write, publish)


def _described(run: StudyRun) -> str:
    measures = run.measures()
    assert measures is not None  # measuring was what was left to do
    return f"{measures.iteration:,} iterations, flow / decode(z_0) {measures.values['single']:.3f}"
