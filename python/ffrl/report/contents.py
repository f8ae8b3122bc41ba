"""What a run folder holds, read for the report."""

import base64
import io
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageSequence, UnidentifiedImageError

from ffrl.errors import UserError
from ffrl.report.log_file import Log, parse_log
from ffrl.run import CONFIG_NAME, EVALUATION_NAME
from ffrl.training.log import CSV_NAME

LARGEST_FILE = 20_000_000
DEEPEST_JSON = 40


@dataclass(frozen=True)
class Picture:
    """A PNG or GIF as a data URI. name: its path below the folder it was found in. width, height: pixels."""

    name: str
    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Experiment:
    """A folder below RUN/experiments. results: JSON values by file name. others: files that a page cannot show."""

    name: str
    results: dict[str, Any]
    pictures: tuple[Picture, ...]
    others: tuple[str, ...]


@dataclass(frozen=True)
class RunContents:
    """A run. name: unique among the runs of a report. log, evaluation: None where the file is missing."""

    name: str
    folder: Path
    config: dict[str, Any]
    log: Log | None
    evaluation: dict[str, Any] | None
    traversal: tuple[Picture, ...]
    experiments: tuple[Experiment, ...]


def read_runs(folders: Sequence[Path]) -> list[RunContents]:
    """The runs in these folders.

    UserError: a folder twice, a folder without config.json, or a file that cannot be shown.
    """
    whole = [folder.resolve() for folder in folders]
    for folder, path in zip(folders, whole, strict=True):
        if whole.count(path) > 1:
            raise UserError(f"{folder}: expected each run once, found it {whole.count(path)} times")
    names = [path.name for path in whole]
    return [
        _read_run(folder, path.name if names.count(path.name) == 1 else str(folder))
        for folder, path in zip(folders, whole, strict=True)
    ]


def _read_run(folder: Path, name: str) -> RunContents:
    if not (folder / CONFIG_NAME).is_file():
        raise UserError(f"{folder}: expected a run with a {CONFIG_NAME}, found none")
    log, evaluation = folder / CSV_NAME, folder / EVALUATION_NAME
    return RunContents(
        name=name,
        folder=folder,
        config=_read_object(folder / CONFIG_NAME),
        log=parse_log(log, _read_text(log)) if log.is_file() else None,
        evaluation=_read_object(evaluation) if evaluation.is_file() else None,
        traversal=_read_pictures(folder / "traversal"),
        experiments=tuple(
            _read_experiment(path) for path in sorted((folder / "experiments").glob("*")) if path.is_dir()
        ),
    )


def _read_experiment(folder: Path) -> Experiment:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    shown = (".json", *_PICTURE_TYPES)
    return Experiment(
        name=folder.name,
        results={_below(folder, path): _read_json(path) for path in files if path.suffix.lower() == ".json"},
        pictures=_read_pictures(folder),
        others=tuple(_below(folder, path) for path in files if path.suffix.lower() not in shown),
    )


def _read_pictures(folder: Path) -> tuple[Picture, ...]:
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix.lower() in _PICTURE_TYPES]
    return tuple(_read_picture(path, _below(folder, path)) for path in paths)


def _read_picture(path: Path, name: str) -> Picture:
    data = _read_bytes(path)
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "GIF")) as image:
            # The checksums of a PNG, which decoding does not look at.
            image.verify()
        with Image.open(io.BytesIO(data), formats=("PNG", "GIF")) as image:
            kind, (width, height) = str(image.format).lower(), image.size
            for frame in ImageSequence.Iterator(image):
                frame.load()
    except UnidentifiedImageError:
        raise UserError(f"{path}: expected a PNG or GIF picture, found something else") from None
    # What Pillow raises depends on where a file is cut.
    except (
        OSError,
        SyntaxError,
        EOFError,
        ValueError,
        IndexError,
        struct.error,
        Image.DecompressionBombError,
    ) as error:
        raise UserError(f"{path}: expected a whole picture, found a damaged one ({error})") from None
    return Picture(name, f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}", width, height)


def _read_object(path: Path) -> dict[str, Any]:
    value = _read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def _read_json(path: Path) -> Any:
    text = _read_text(path)
    try:
        value = json.loads(text)
    # ValueError: also an integer of thousands of digits.
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: expected JSON, found something else ({error})") from None
    level = [value]
    for _ in range(DEEPEST_JSON):
        level = [
            child
            for parent in level
            if isinstance(parent, dict | list)
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
    if level:
        raise UserError(f"{path}: expected JSON nested at most {DEEPEST_JSON} deep, found more")
    return value


def _read_text(path: Path) -> str:
    try:
        return _read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected UTF-8 text, found something else ({error})") from None


def _read_bytes(path: Path) -> bytes:
    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise UserError(f"{path}: expected at most {LARGEST_FILE / 1e6:.0f} MB, found {size / 1e6:.1f} MB")
    return path.read_bytes()


def _below(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


_PICTURE_TYPES = (".png", ".gif")
