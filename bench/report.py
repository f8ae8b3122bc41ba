"""CSV, metadata, Markdown tables and plots of a run."""

from __future__ import annotations

import csv
import dataclasses
import json
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.run import Row

WORK_TITLES = {
    "forward": "u, ∂ₜu and ∇u, no gradients",
    "operator": "the operator and its backward, cotangents given",
    "step": "mean r² + ⟨ḡ, ∇u⟩ and all gradients",
    "loss": "mean r² and all gradients",
    "integrate": "T = 8 steps with residual, forward and backward, K = 3",
    "integrate_force": "T = 8 steps with residual and force, forward and backward, K = 3",
}


def write(rows: list[Row], metadata: dict[str, Any], folder: Path) -> list[Path]:
    """Writes ``results.csv``, ``metadata.json``, ``results.md`` and ``<work>.png`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "results.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, [f.name for f in dataclasses.fields(Row)])
        table.writeheader()
        table.writerows({k: _rounded(v) for k, v in dataclasses.asdict(row).items()} for row in rows)
    (folder / "metadata.json").write_text(json.dumps(metadata, indent=2, ensure_ascii=False) + "\n")
    (folder / "results.md").write_text(markdown(rows, metadata))
    written = [folder / "results.csv", folder / "metadata.json", folder / "results.md"]
    for work in _unique(r.work for r in rows):
        written.append(folder / f"{work}.png")
        plot([r for r in rows if r.work == work], metadata, written[-1])
    return written


def write_table(rows: list[dict[str, Any]], metadata: dict[str, Any], text: str, folder: Path) -> None:
    """The same three files for a table of its own form: ``rows`` with one set of names, and its Markdown ``text``."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "results.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]) if rows else [])
        table.writeheader()
        table.writerows({k: _rounded(v) for k, v in row.items()} for row in rows)
    (folder / "metadata.json").write_text(json.dumps(metadata, indent=2, ensure_ascii=False) + "\n")
    (folder / "results.md").write_text(text)


def _rounded(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _unique(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def _milliseconds(seconds: float) -> str:
    ms = 1e3 * seconds
    return f"{ms:.4f}" if ms < 0.1 else f"{ms:.3g}" if ms < 1000 else f"{ms:.0f}"


def machine(metadata: dict[str, Any]) -> str:
    """One sentence: where and when the numbers were taken."""
    m = metadata
    threads = f"{m['threads']} thread{'s' if m['threads'] > 1 else ''}"
    return (
        f"{m['processor']}, {threads}, {m['isa']}, {m['dtype']}; FMA peak {m['peak_gflops']:.0f} GFLOP/s a core; "
        f"torch {m['torch']}" + (f", JAX {m['jax']}" if m["jax"] else "") + f"; {m['date']}"
    )


def markdown(rows: list[Row], metadata: dict[str, Any]) -> str:
    """A table for each work and D: median milliseconds, and in brackets how many times ours."""
    lines = [
        f"{machine(metadata)}. `{metadata['command']}`",
        "",
        "Median milliseconds of interleaved samples; in brackets the time divided by that of the first row.",
    ]
    for work in _unique(r.work for r in rows):
        for dim in _unique(r.dim for r in rows if r.work == work):
            here = [r for r in rows if r.work == work and r.dim == dim]
            sizes = _unique(r.rows for r in here)
            lines += ["", f"**{WORK_TITLES[work]}, D = H = {dim}**", ""]
            lines += ["| | " + " | ".join(f"B = {b:,}" for b in sizes) + " |", "|---" * (len(sizes) + 1) + "|"]
            for name in _unique(r.variant for r in here):
                cells = {r.rows: r for r in here if r.variant == name}
                lines.append(f"| {cells[sizes[0]].title} | " + " | ".join(_cell(cells.get(b)) for b in sizes) + " |")
            mine = {r.rows: r for r in here if r.variant == "ours"}
            if mine:
                fractions = (_percent(mine[b].peak_fraction_best) if b in mine else "–" for b in sizes)
                lines.append("| fraction of FMA peak, best sample of the first row | " + " | ".join(fractions) + " |")
    memory = [r for r in rows if r.extra_memory_bytes is not None]
    if memory:
        lines += ["", "Peak memory of one call over its inputs, outputs included, MB:", ""]
        lines += ["| work | D | B | | MB |", "|---|---|---|---|---|"]
        for r in memory:
            lines.append(f"| {r.work} | {r.dim} | {r.rows:,} | {r.title} | {(r.extra_memory_bytes or 0) / 1e6:,.1f} |")
    notes = [f"- {r.title}, {r.work}, D = {r.dim}, B = {r.rows:,}: {r.note}" for r in rows if r.note]
    return "\n".join([*lines, *(["", "Not measured:", "", *notes] if notes else []), ""])


def _cell(row: Row | None) -> str:
    if row is None or row.median_s is None:
        return "–"
    ratio = "" if row.times_ours_median is None or row.variant == "ours" else f" ({row.times_ours_median:.2f} ×)"
    return _milliseconds(row.median_s) + ratio


def _percent(fraction: float | None) -> str:
    return "–" if fraction is None else f"{100 * fraction:.0f} %"


_COLOURS = {
    "ours": "#d62728",
    "ours_by_hand": "#ff7f0e",
    "ours_compiled": "#f7b6d2",
    "ours_hj_loss": "#ff7f0e",
    "ours_value_and_grad": "#e377c2",
    "ours_per_row": "#ff7f0e",
    "ours_row_sum": "#e377c2",
    "products": "#000000",
    "autograd": "#1f77b4",
    "autograd_per_row": "#7fb2d9",
    "functional": "#8c564b",
    "functional_compiled": "#c49c94",
    "formulas": "#9467bd",
    "formulas_compiled": "#2ca02c",
    "formulas_autograd_compiled": "#98df8a",
    "jax_formulas": "#17becf",
    "jax_formulas_autodiff": "#9edae5",
    "jax_autodiff": "#bcbd22",
    "paper_code": "#7f7f7f",
    "paper_code_no_row_sums": "#c7c7c7",
}


def plot(rows: list[Row], metadata: dict[str, Any], path: Path) -> None:
    """Median time against B, log–log, above the fraction of peak of the best sample; a column for each D."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import NullLocator

    dims = _unique(r.dim for r in rows)
    figure, axes = plt.subplots(
        2, len(dims), figsize=(max(9.0, 1.5 + 4.6 * len(dims)), 8.2), squeeze=False, sharex=True, sharey="row"
    )
    for column, dim in enumerate(dims):
        above, below = axes[0][column], axes[1][column]
        for name in _unique(r.variant for r in rows):
            curve = [r for r in rows if r.variant == name and r.dim == dim and r.median_s is not None]
            if not curve:
                continue
            style: dict[str, Any] = {
                "color": _COLOURS[name],
                "linewidth": 2.4 if curve[0].ours else 1.2,
                "linestyle": "--" if name == "products" else "-",
                "marker": "o",
                "markersize": 5 if curve[0].ours else 3,
                "zorder": 3 if curve[0].ours else 2,
                "label": curve[0].title,
            }
            x = [r.rows for r in curve]
            above.loglog(x, [1e3 * (r.median_s or 0) for r in curve], **style)
            below.semilogx(x, [r.peak_fraction_best for r in curve], **style)
        above.set_title(f"D = H = {dim}")
        below.set_xlabel("rows B")
        below.set_ylim(0, 1)
        measured = sorted({r.rows for r in rows if r.dim == dim})
        below.set_xticks(measured, [f"{n:,}" for n in measured], fontsize=8)
        below.xaxis.set_minor_locator(NullLocator())
        for ax in (above, below):
            ax.grid(True, which="major", linewidth=0.5, alpha=0.5)
    axes[0][0].set_ylabel("milliseconds, median")
    axes[1][0].set_ylabel("fraction of FMA peak, best sample")
    by_title: dict[str, Any] = {}
    for ax in axes.flat:
        by_title |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    columns = 4 if len(dims) > 2 else 3
    lines = -(-len(by_title) // columns)
    figure.legend(list(by_title.values()), list(by_title), loc="lower center", ncols=columns, fontsize=8, frameon=False)
    figure.suptitle("\n".join([WORK_TITLES[rows[0].work], *textwrap.wrap(machine(metadata), 110)]), fontsize=9)
    figure.tight_layout(rect=(0, 0.01 + 0.022 * lines, 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)
