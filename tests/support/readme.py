"""The parts of README.md that are made from the code. ``python tests/support/readme.py`` writes them anew."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
from pathlib import Path

import torch

from ffrl_fast.backends import Request, choose

README = Path(__file__).parents[2] / "README.md"
_EXAMPLE = re.compile(r"```python\n(?P<code>.*?)```\n\n```text\n(?P<printed>.*?)```", re.DOTALL)
_TABLE = re.compile(r"(?<=\(plain PyTorch\) \|\n\|---\|---\|---\|---\|\n).*?(?=\n\n)", re.DOTALL)
_SPEED = re.compile(r"(?<=<!-- speed -->\n).*?(?=<!-- end of speed -->)", re.DOTALL)
_RESULTS = README.parent / "docs" / "benchmarks" / "cpu-loss"


def example_output(text: str) -> str:
    """What the README's example prints."""
    match = _EXAMPLE.search(text)
    assert match is not None, "README.md has no python block followed by a text block"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(match["code"], "README.md", "exec"), {})
    return printed.getvalue()


def capabilities() -> str:
    """The rows of the table: what ``cpu`` and the reference can run, else the reason; of the GPU backends as stated."""
    second_order = Request("potential_field", "cpu", torch.float32, tangent=True)
    rows = {
        "u, ∂ₜu, ∇u, residual, trajectory; float32": (
            Request("hj_residual", "cpu", torch.float32),
            "yes; products in ieee, tf32 or bf16",
        ),
        "the same; float64": (Request("hj_residual", "cpu", torch.float64), "no"),
        "the same; bfloat16": (Request("hj_residual", "cpu", torch.bfloat16), "`triton`"),
        "the same; GPU tensors": (Request("hj_residual", "cuda", torch.float32), "nothing else; D, H ≤ 1024"),
        "∇²u · tangent": (second_order, "forward"),
        "Hessian, Laplacian, log-determinant": (second_order.replace(operator="hessian"), "by the reference"),
    }
    lines = []
    for label, (request, on_gpu) in rows.items():
        cpu, reference = (
            verdict if (verdict := _verdict(request, name)) == "yes" else f"no: {verdict}"
            for name in ("cpu", "reference")
        )
        lines.append(f"| {label} | {cpu} | {on_gpu} | {reference} |")
    lines.append("| gradients | first order; a second raises an error | first order | any order |")
    lines.append("| `torch.compile(fullgraph=True)`, `vmap` over rows, `torch.func.grad` | yes | yes | yes |")
    lines.append("| forward mode: `torch.func.jvp`, `jacfwd` | no: an error | no: an error | yes |")
    lines.append("| `vmap` over parameters | no: use one bank of K potentials | no | yes |")
    return "\n".join(lines)


def speed() -> str:
    """Microseconds of the loss and its gradients, from a run of ``python -m bench`` that docs/benchmarks keeps."""
    with (_RESULTS / "results.csv").open(newline="") as file:
        results = [r for r in csv.DictReader(file) if r["work"] == "loss" and r["median_s"]]
    facts = json.loads((_RESULTS / "metadata.json").read_text())
    sizes = [(d, b) for d in ("64", "324") for b in ("16", "128", "1024", "8192")]
    labels = {
        "`value_and_grad`": ("ours_value_and_grad",),
        "`hj_loss` and autograd": ("ours_hj_loss",),
        "eager autograd": ("autograd",),
        "torch.compile, the best of two forms": ("formulas_compiled", "formulas_autograd_compiled"),
        "JAX, the best of three forms": ("jax_formulas", "jax_formulas_autodiff", "jax_autodiff"),
        "the 12 bare products, torch.mm": ("products",),
    }
    lines = [
        f"{facts['processor']}, {facts['isa']}, one thread, {facts['dtype']}; torch {facts['torch']}, "
        f"JAX {facts['jax']}; `{facts['command']}`",
        "",
        "| µs | " + " | ".join(f"D = {d}, B = {int(b):,}" for d, b in sizes) + " |",
        "|---" * (len(sizes) + 1) + "|",
    ]
    for label, names in labels.items():
        cells = []
        for d, b in sizes:
            here = [float(r["median_s"]) for r in results if (r["dim"], r["rows"]) == (d, b) and r["variant"] in names]
            cells.append(f"{1e6 * min(here):,.0f}" if here else "–")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def _verdict(request: Request, name: str) -> str:
    try:
        choose(request, name)
    except RuntimeError as error:
        return str(error).split(": ", 1)[1]
    return "yes"


def updated(text: str) -> str:
    """The README with its example's output and its tables as the code makes them."""
    for part in (_TABLE, _SPEED):
        assert part.search(text) is not None, f"README.md has nothing like {part.pattern}"
    printed = example_output(text)
    text = _EXAMPLE.sub(lambda m: f"```python\n{m['code']}```\n\n```text\n{printed}```", text)
    text = _TABLE.sub(lambda _: capabilities(), text)
    return _SPEED.sub(lambda _: speed(), text)


if __name__ == "__main__":
    README.write_text(updated(README.read_text()))
