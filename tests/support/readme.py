"""The parts of README.md that are made from the code. ``python tests/support/readme.py`` writes them anew."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import torch

from ffrl_fast.backends import Request, choose

README = Path(__file__).parents[2] / "README.md"
_EXAMPLE = re.compile(r"```python\n(?P<code>.*?)```\n\n```text\n(?P<printed>.*?)```", re.DOTALL)
_TABLE = re.compile(r"(?<=\|---\|---\|---\|\n).*?(?=\n\n)", re.DOTALL)


def example_output(text: str) -> str:
    """What the README's example prints."""
    match = _EXAMPLE.search(text)
    assert match is not None, "README.md has no python block followed by a text block"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(match["code"], "README.md", "exec"), {})
    return printed.getvalue()


def capabilities() -> str:
    """The rows of the table: what a backend can run, and else its reason."""
    rows = {
        "u, ∂ₜu, ∇u, residual, trajectory; float32": Request("hj_residual", "cpu", torch.float32),
        "the same; float64": Request("hj_residual", "cpu", torch.float64),
        "the same; bfloat16": Request("hj_residual", "cpu", torch.bfloat16),
        "the same; GPU tensors": Request("hj_residual", "cuda", torch.float32),
        "∇²u · tangent": Request("potential_field", "cpu", torch.float32, tangent=True),
    }
    lines = []
    for label, request in rows.items():
        cells = []
        for name in ("cpu", "reference"):
            verdict = _verdict(request, name)
            cells.append("yes" if verdict == "yes" else f"no: {verdict}")
        lines.append(f"| {label} | {cells[0]} | {cells[1]} |")
    lines.append("| gradients | first order; a second raises an error | any order |")
    lines.append("| `torch.compile(fullgraph=True)`, `vmap` over rows, `torch.func.grad` | yes | yes |")
    lines.append("| `vmap` over parameters | no: use one bank of K potentials | yes |")
    return "\n".join(lines)


def _verdict(request: Request, name: str) -> str:
    try:
        choose(request, name)
    except RuntimeError as error:
        return str(error).split(": ", 1)[1]
    return "yes"


def updated(text: str) -> str:
    """The README with its example's output and its table as the code makes them."""
    printed = example_output(text)
    text = _EXAMPLE.sub(lambda m: f"```python\n{m['code']}```\n\n```text\n{printed}```", text)
    return _TABLE.sub(lambda _: capabilities(), text)


if __name__ == "__main__":
    README.write_text(updated(README.read_text()))
