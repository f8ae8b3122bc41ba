"""A page of the documentation whose table, between two marks, a campaign writes anew."""

from dataclasses import dataclass
from pathlib import Path

from ffrl.errors import UserError
from ffrl.files import write_text


@dataclass(frozen=True)
class Page:
    """The page at `path`, with the lines <!-- name --> and <!-- end of name --> in it. UserError: they are not, or it
    is no text.
    """

    path: Path
    name: str

    def __post_init__(self) -> None:
        self._around()

    def write(self, table: str) -> list[Path]:
        """Put the table, lines of text, between the marks; what was written. UserError: there are none."""
        before, after = self._around()
        write_text(self.path, f"{before}{self._begin}{table}{self._end}{after}")
        return [self.path]

    @property
    def _begin(self) -> str:
        return f"<!-- {self.name} -->\n"

    @property
    def _end(self) -> str:
        return f"<!-- end of {self.name} -->"

    def _around(self) -> tuple[str, str]:
        if not self.path.is_file():
            raise UserError(f"--docs {self.path}: expected a page, found no such file")
        try:
            text = self.path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"--docs {self.path}: expected text in UTF-8, found {error.reason}") from None
        before, begin, rest = text.partition(self._begin)
        _, end, after = rest.partition(self._end)
        if not (begin and end):
            raise UserError(
                f"--docs {self.path}: expected the lines {self._begin.strip()} and {self._end}, found not both"
            )
        return before, after
