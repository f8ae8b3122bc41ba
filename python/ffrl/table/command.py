"""The command: ffrl table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from ffrl.campaign.conduct import conduct
from ffrl.campaign.page import Page
from ffrl.campaign.runs import Plan
from ffrl.data import DATASETS, find_dataset
from ffrl.errors import UserError
from ffrl.files import read_json, write_text
from ffrl.table.files import require_ending, write_files, write_page
from ffrl.table.markdown import as_markdown
from ffrl.table.measures import RATIO
from ffrl.table.results import as_json
from ffrl.table.rows import ROWS, base_of, chosen
from ffrl.table.runs import TableRun
from ffrl.training.budget import Budget

MINUTES = 5.0


def table(
    out: Annotated[Path, typer.Option(help="Folder of the table and its runs.")] = Path("runs/table"),
    data: Annotated[str, typer.Option(help=f"{', '.join(DATASETS)}.")] = "digits",
    root: Annotated[Path | None, typer.Option(help="Folder of the data set's files, if it has any.")] = None,
    minutes: Annotated[
        float | None,
        typer.Option(help=f"Minutes of training time of each run, on one thread. Default: {MINUTES:g}."),
    ] = None,
    iterations: Annotated[int | None, typer.Option(help="Iterations of each run instead, to be reproducible.")] = None,
    processor_time: Annotated[
        bool,
        typer.Option(
            "--processor-time", help="Count the minutes of processor time: fair on a machine that does other work too."
        ),
    ] = False,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, 0 and up, of each system.")] = 3,
    models: Annotated[
        str | None,
        typer.Option(metavar="NAME,…", help=f"Only these systems of {', '.join(row.name for row in ROWS)}."),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at once, each a process of one thread.")] = 1,
    sequences: Annotated[
        int, typer.Option(min=1, help="At most so many held-out sequences of each transformation.")
    ] = 1_000,
    docs: Annotated[
        Path | None,
        typer.Option(
            help="A page whose table of these data, between its marks, is written anew; the other files go into the "
            "folder of its name beside it.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Compare systems: train each for an equal time, measure all alike, write Markdown, CSV, JSON and a picture.

    Interrupted, it goes on with the same command: what is done is not done again.
    """
    page = None if docs is None else Page(docs, f"table of {data}")
    if page is not None:
        require_ending(page)
    rows = chosen(models)
    loaded = find_dataset(data, root)
    for row in rows:
        row.preset(base_of(data)).require_fit(loaded)
    plan = Plan(out, _budget(minutes, iterations, processor_time), data, root, loaded.checksum(), sequences)
    # Seed by seed, so that a table cut short compares all systems, and a slow hour meets them all.
    runs = [TableRun(plan, seed, row) for seed in range(seeds) for row in rows]

    def write(failed: Mapping[str, str]) -> list[Path]:
        found = as_json(plan, loaded.format, runs, failed)
        write_text(out / "table.md", as_markdown(found))
        return [out / "table.md", *write_files(out, "table", found)]

    def publish() -> list[Path]:
        return [] if page is None else write_page(page, read_json(out / "table.json"))

    conduct(out, runs, jobs, _described, write, publish)


def _budget(minutes: float | None, iterations: int | None, processor_time: bool) -> Budget:
    if minutes is not None and iterations is not None:
        raise UserError("--iterations and --minutes: expected one of the two, found both")
    if iterations is None and minutes is None:
        minutes = MINUTES
    return Budget(iterations, minutes, processor_time)


def _described(run: TableRun) -> str:
    measures = run.measures()
    assert measures is not None  # measuring was what was left to do
    return f"{measures.iteration:,} iterations, error / decode(z_0) {measures.values[RATIO]:.3f}"
