"""Tables of the experiments for the terminal, 80 columns."""

from collections.abc import Mapping

from rich.table import Table

from ffrl.evaluation import EquivarianceError


def errors_table(errors: Mapping[str, EquivarianceError], title: str, still: str = "decode(z_0)") -> Table:
    """A row for each error. still: what stands still."""
    broken = still.replace("(", "\n(")
    headings = ("flow", f"flow /\n{broken}", "decode\n(encode\n(x_t))", broken, "identity", "black")
    table = titled(title, *headings)
    for name, error in errors.items():
        references = (error.reconstruction, error.standing_still, error.pixel_identity, error.black)
        table.add_row(name, f"{error.flow:.0f}", f"{error.ratio:.3f}", *(f"{number:.0f}" for number in references))
    return table


def titled(title: str, *headings: str) -> Table:
    """An empty table; its first column has names."""
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def note_left_out(table: Table, left_out: Mapping[str, str]) -> Table:
    """The table with the reasons why something is not in it below."""
    if left_out:
        table.caption = "\n".join(f"{name}: left out. {reason}" for name, reason in left_out.items())
        table.caption_justify = "left"
    return table
