"""Checkpoints: one safetensors file with every tensor and one JSON file that names it.

The JSON file is the commit point. The tensors are written first, under a name that holds the iteration; only then is
checkpoint.json replaced, so a run killed at any moment leaves a checkpoint.json that points to a whole file.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from ffrl.errors import UserError
from ffrl.files import read_json, write_atomically, write_json
from ffrl.kinds import is_finite_number

FORMAT = 1
INDEX_NAME = "checkpoint.json"
_TENSORS_NAME = re.compile(r"checkpoint-[0-9]{8,}\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """tensors: by name, the part before the first "/" says whose they are (model, average, optimizer, sampler).

    iteration: iterations done. seconds: training time used.
    """

    tensors: dict[str, Tensor]
    iteration: int
    seconds: float

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors of one part, without its prefix."""
        prefix = f"{name}/"
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}

    def require_shapes(self, run: Path, name: str, expected: Mapping[str, Tensor]) -> None:
        """UserError, which names the folder `run`, unless the part `name` has tensors of the names and shapes of
        `expected`.
        """
        found = self.part(name)
        for key in sorted(expected.keys() | found.keys()):
            there, asked = (str(tuple(of[key].shape)) if key in of else "none" for of in (found, expected))
            if there != asked:
                raise UserError(
                    f"{run}: expected a checkpoint of the run's settings, {asked} for {name}/{key}, found {there}"
                )


def has_checkpoint(run: Path) -> bool:
    """Whether `run` holds a checkpoint."""
    return (run / INDEX_NAME).exists()


def is_of_checkpoints(name: str) -> bool:
    """Whether a file of this name in the folder of a run is one that `save_checkpoint` writes or removes."""
    return name == INDEX_NAME or _TENSORS_NAME.fullmatch(name) is not None


def save_checkpoint(run: Path, checkpoint: Checkpoint) -> None:
    """Write the checkpoint into the folder `run`, then remove the one before it."""
    path = run / f"checkpoint-{checkpoint.iteration:08d}.safetensors"
    # safetensors refuses shared and strided storage.
    tensors = {name: value.detach().contiguous().clone() for name, value in checkpoint.tensors.items()}
    write_atomically(path, lambda temporary: save_file(tensors, temporary))
    index = {
        "format": FORMAT,
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "iteration": checkpoint.iteration,
        "seconds": checkpoint.seconds,
    }
    write_json(run / INDEX_NAME, index)
    for older in run.glob("checkpoint-*.safetensors"):
        if older != path and is_of_checkpoints(older.name):
            older.unlink()


def read_progress(run: Path) -> tuple[int, float] | None:
    """Iterations done and training seconds used, by the checkpoint of the folder `run`; None: it has none.

    UserError: not a checkpoint's index.
    """
    if not has_checkpoint(run):
        return None
    index = _read_index(run)
    return index["iteration"], float(index["seconds"])


def load_checkpoint(run: Path) -> Checkpoint:
    """Read the checkpoint of the folder `run`. UserError: none there, or damaged (the checksum is verified)."""
    index = _read_index(run)
    path = run / index["file"]
    if not path.is_file():
        raise UserError(f"{path}: expected the tensors that {INDEX_NAME} names, found no such file")
    raw = path.read_bytes()
    digest = hashlib.sha256(raw).hexdigest()
    if digest != index["sha256"]:
        raise UserError(f"{path}: damaged: expected SHA-256 {index['sha256']}, found {digest}")
    try:
        tensors = load(raw)
    except SafetensorError as error:
        raise UserError(f"{path}: expected a safetensors file, found something else ({error})") from None
    return Checkpoint(tensors, index["iteration"], float(index["seconds"]))


def _read_index(run: Path) -> dict[str, Any]:
    path = run / INDEX_NAME
    if not path.exists():
        raise UserError(f"{run}: expected a run with a {INDEX_NAME}, found none")
    index = read_json(path)
    missing = {"format", "file", "sha256", "iteration", "seconds"} - index.keys()
    if missing or index["format"] != FORMAT:
        found = f"no {', '.join(sorted(missing))}" if missing else f"format {index['format']!r}"
        raise UserError(f"{path}: expected a checkpoint of format {FORMAT}, found {found}")
    file, iteration, seconds = index["file"], index["iteration"], index["seconds"]
    if not (isinstance(file, str) and file and Path(file).name == file):
        raise UserError(f"{path}: file: expected the name of a file beside it, found {file!r}")
    if type(iteration) is not int or iteration < 0:
        raise UserError(f"{path}: iteration: expected a whole number from 0 on, found {iteration!r}")
    if not (is_finite_number(seconds) and seconds >= 0):
        raise UserError(f"{path}: seconds: expected a number from 0 on, found {seconds!r}")
    return index
