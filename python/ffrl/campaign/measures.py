"""What is measured of a run: RUN/measures.json."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Self

import torch

from ffrl.errors import UserError
from ffrl.files import read_json, write_json
from ffrl.kinds import require_kinds
from ffrl.run import MEASURES_NAME


@dataclass(frozen=True)
class Measures:
    """What every campaign says of a run; each adds its own.

    asked: at most so many held-out sequences of each kind. values: numbers worth a mean over seeds, by the columns of
    the tables. missing: why there is no value, by its name. versions, commit: of the source that measured.
    """

    asked: int
    iteration: int
    seed: int
    data_checksum: str
    values: dict[str, float]
    missing: dict[str, str]
    versions: dict[str, str]
    commit: str | None

    @classmethod
    def load(cls, run: Path) -> Self | None:
        """From the folder `run`; None: not measured, or by a version that measured other things. UserError: no JSON, or
        values of another type.
        """
        path = run / MEASURES_NAME
        values = read_json(path) if path.exists() else {}
        if values.keys() != {field.name for field in fields(cls)}:
            return None
        try:
            require_kinds(cls, values)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        return cls(**values)

    def save(self, run: Path) -> None:
        """Write measures.json into the folder `run`."""
        write_json(run / MEASURES_NAME, asdict(self))


def measure_and_save(measure: Callable[[Path, int], Measures], run: str, sequences: str) -> None:
    """What ``python -m MODULE RUN SEQUENCES`` does: on one thread, as the run was trained."""
    torch.set_num_threads(1)
    folder = Path(run)
    measure(folder, int(sequences)).save(folder)
