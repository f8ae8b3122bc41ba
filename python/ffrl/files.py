"""Files that are either whole or absent."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ffrl.errors import UserError


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it to `path`.

    A reader, or a run that was killed meanwhile, finds the old file or the new one, never a part.
    The temporary name ends like `path`, because some writers choose the format by the ending; whatever mode they give
    their files, it gets that of any new file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        if temporary.stat().st_mode != mode:
            temporary.chmod(stat.S_IMODE(mode))
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_atomically(path, lambda temporary: _write_utf8(temporary, text))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. UserError: NaN or infinity, which are not JSON."""
    try:
        text = json.dumps(value, indent=2, allow_nan=False)
    except ValueError:
        raise UserError(f"{path}: expected finite numbers to write, found NaN or infinity") from None
    write_text(path, text + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; UserError names the file when it is missing, is not JSON or is not an object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    # ValueError: not UTF-8, not JSON, or an integer of thousands of digits. RecursionError: nested too deep.
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: expected JSON, found something else ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def _write_utf8(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
