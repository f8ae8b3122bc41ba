"""The command: ffrl study."""

from pathlib import Path
from typing import Annotated

import typer

from ffrl.errors import UserError
from ffrl.files import write_json, write_text
from ffrl.study.processes import Job, run_jobs
from ffrl.study.results import as_json, as_markdown, require_marks, write_into
from ffrl.study.runs import Plan, StudyRun
from ffrl.study.variants import FLOWS, all_variants, chosen

INTERRUPTED_EXIT_CODE = 130


def study(
    out: Annotated[Path, typer.Option(help="Folder of the study.")] = Path("runs/study"),
    minutes: Annotated[float, typer.Option(help="Minutes of training of each run, on one thread.")] = 3.0,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, 0 and up, of each variant.")] = 3,
    data: Annotated[str, typer.Option(help="As of ffrl train.")] = "digits",
    root: Annotated[Path | None, typer.Option(help="As of ffrl train.")] = None,
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
    if docs is not None:
        require_marks(docs)
    plan = Plan(out, minutes, data, root, sequences)
    variants = chosen(all_variants(data, root), only)
    # Seed by seed, so that a study cut short compares all variants, and a slow hour meets them all.
    runs = {run.name: run for run in (StudyRun(plan, variant, seed) for seed in range(seeds) for variant in variants)}
    for run in runs.values():
        run.require_ours()
    failed: dict[str, str] = {}
    number = 0

    def write() -> str:
        found = as_json(plan, list(runs.values()), failed)
        table = as_markdown(found)
        write_json(out / "study.json", found)
        write_text(out / "study.md", table)
        return table

    def done(job: Job) -> None:
        nonlocal number
        number += 1
        write()
        measures = runs[job.name].measures()
        assert measures is not None  # it is what was left to do
        ratio, iteration = measures.values["single"], measures.iteration
        typer.echo(f"{number}/{len(runs)}  {job.name}: {iteration:,} iterations, flow / decode(z_0) {ratio:.3f}")

    outcome = run_jobs([Job(run.name, run.folder / "study.log", run.next_command) for run in runs.values()], jobs, done)
    failed |= outcome.failed
    table = write()
    if outcome.interrupted:
        typer.echo(f"interrupted after {number} of {len(runs)} runs; go on with the same command")
        raise typer.Exit(INTERRUPTED_EXIT_CODE)
    if docs is not None:
        write_into(docs, table)
    for path in (out / "study.json", out / "study.md", *([docs] if docs else [])):
        typer.echo(f"wrote {path}")
    if failed:
        raise UserError(
            f"{len(failed)} of {len(runs)} runs failed: " + "; ".join(f"{n}: {r}" for n, r in failed.items())
        )
