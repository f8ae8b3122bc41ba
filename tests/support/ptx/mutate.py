"""PTX texts with one fault planted in each: what a check is worth is how many of them it reports."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

WIDTHS = {"8": 1, "16": 2, "32": 4, "64": 8}


class Mutant(NamedTuple):
    """A changed text, and what was changed."""

    description: str
    ptx: str


def _without_barrier(line: str) -> str | None:
    return "" if re.match(r"\s*(@!?%\w+\s+)?bar(rier)?(\.cta)?\.sync\b", line) else None


def _without_wait(line: str) -> str | None:
    return "" if re.match(r"\s*(@!?%\w+\s+)?(cp\.async|wgmma)\.wait_(group|all)\b", line) else None


def _shifted(line: str) -> str | None:
    found = re.match(r"\s*(@!?%\w+\s+)?(ld|st)\.shared\b[\w.:]*\.[busf](8|16|32|64)\s", line)
    if not found:
        return None
    return re.sub(
        r"\[([^\]+]+?)(?:\s*\+\s*(-?\d+))?\]", lambda m: f"[{m[1]}+{int(m[2] or 0) + WIDTHS[found[3]]}]", line, count=1
    )


def _loosened(line: str) -> str | None:
    found = re.match(r"\s*setp\.(lt|gt|lo|hi)\b", line)
    looser = {"lt": "le", "gt": "ge", "lo": "ls", "hi": "hs"}
    return line.replace(f"setp.{found[1]}", f"setp.{looser[found[1]]}", 1) if found else None


def _restrided(line: str) -> str | None:
    found = re.match(r"(\s*(?:shl|mul\.lo|mul\.wide|mad\.lo|mad\.wide)\.\w+\s+\S+,\s*\S+,\s*)(\d+)([;,].*)", line)
    return f"{found[1]}{int(found[2]) + 1}{found[3]}" if found else None


KINDS: dict[str, tuple[str, Callable[[str], str | None]]] = {
    "barrier": ("no barrier", _without_barrier),
    "wait": ("no wait", _without_wait),
    "address": ("a shared-memory address one element on", _shifted),
    "predicate": ("a comparison looser by one", _loosened),
    "stride": ("an immediate factor or shift larger by one", _restrided),
}


def mutants_by_source(
    text: str, kinds: Sequence[str] = ("barrier", "wait"), wrappers: str | None = None
) -> Iterator[Mutant]:
    """Mutants of text compiled with ``-lineinfo``: one for each line of the source, in all places it was inlined into.

    Two consecutive barriers of one function need not both be needed where it is inlined; the line that has them is.
    ``wrappers``: a file of functions that wrap one instruction each, which stands where the function is called.
    """
    lines = text.splitlines()
    files = {m[1]: m[2] for line in lines if (m := re.match(r"\s*\.file\s+(\d+)\s+\"([^\"]+)\"", line))}
    for kind in kinds:
        what, change = KINDS[kind]
        by_line: dict[tuple[str, int], dict[int, str]] = {}
        at = ("", 0)
        for number, line in enumerate(lines):
            if place := re.match(r"\s*\.loc\s+(\d+)\s+(\d+)", line):
                at = files[place[1]], int(place[2])
                called = re.search(r"inlined_at\s+(\d+)\s+(\d+)", line)
                if called and wrappers is not None and at[0].endswith(f"/{wrappers}"):
                    at = files[called[1]], int(called[2])
            changed = change(line)
            if changed is not None and changed != line:
                by_line.setdefault(at, {})[number] = changed
        for (file, source), replaced in by_line.items():
            name = file.rsplit("/", 1)[-1]
            yield Mutant(
                f"{what}, {name}:{source}, {len(replaced)} times",
                "\n".join(replaced.get(number, line) for number, line in enumerate(lines)),
            )


def mutants(text: str, kinds: Sequence[str] = tuple(KINDS)) -> Iterator[Mutant]:
    """Every mutant of the given kinds: ``barrier``, ``wait``, ``address``, ``predicate``, ``stride``."""
    lines = text.splitlines()
    for kind in kinds:
        what, change = KINDS[kind]
        for number, line in enumerate(lines):
            changed = change(line)
            if changed is not None and changed != line:
                yield Mutant(
                    f"{what}, line {number + 1}: {line.strip()}",
                    "\n".join([*lines[:number], changed, *lines[number + 1 :]]),
                )
