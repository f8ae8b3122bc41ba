"""The files of the table, and its page in the documentation; all of them are made from the numbers as JSON."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ffrl.campaign.page import Page
from ffrl.drawing import save_png
from ffrl.errors import UserError
from ffrl.files import write_json, write_text
from ffrl.table.chart import chart
from ffrl.table.markdown import as_markdown
from ffrl.table.results import as_csv


def write_files(folder: Path, name: str, table: Mapping[str, Any]) -> list[Path]:
    """NAME.json, NAME.csv and, of a table that holds something, NAME.png in the folder, of `results.as_json`."""
    paths = [folder / f"{name}.json", folder / f"{name}.csv"]
    write_json(paths[0], table)
    write_text(paths[1], as_csv(table))
    picture = chart(table)
    return paths if picture is None else [*paths, save_png(picture, folder / f"{name}.png")]


def require_ending(page: Page) -> None:
    """UserError: the page's name has no ending, so that no folder beside it can have the name without."""
    if not page.path.suffix:
        raise UserError(f"--docs {page.path}: expected a name with an ending, as table.md, found none")


def write_page(page: Page, table: Mapping[str, Any]) -> list[Path]:
    """The table between the marks of the page below its picture; the other files in a folder of the page's name."""
    folder, data = page.path.with_suffix(""), table["data"]
    files = write_files(folder, data, table)
    links = ", ".join(f"[{path.suffix[1:].upper()}]({folder.name}/{path.name})" for path in files[:2])
    pictures = [f"![errors of the systems on {data}]({folder.name}/{path.name})\n" for path in files[2:]]
    return [*page.write("\n".join([*pictures, as_markdown(table), f"All numbers: {links}.\n"])), *files]
