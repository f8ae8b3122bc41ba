"""``python -m bench.choose_blocks``: fills ``kernels/triton/blocks.json`` with the first block sizes that do not spill.

For each architecture, precision and width the candidates are compiled in order of preference (many rows a block, which
share what is read of the weights; few warps; two stages of copies under way) until the fused forward and the fused
backward, with and without derivatives, hold all they need in registers. A width for which no candidate does goes layer
by layer. No GPU is asked: what is fastest on one, only a run on one can tell.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from typing import Any

import torch
import triton

from bench.machine_code import usage
from ffrl_fast.gpu.engine import Cotangents, Precision, Rows, Wanted
from ffrl_fast.layout import NetworkShape
from ffrl_fast.triton_kernels import blocks
from ffrl_fast.triton_kernels.blocks import ARCHITECTURES, Plan, Tile
from ffrl_fast.triton_kernels.engine import TritonEngine
from ffrl_fast.triton_kernels.launch import Variant, target, variant_of

WIDTHS = {Precision.IEEE: (32, 64), Precision.TF32: (32, 64, 128, 256), Precision.BF16: (32, 64, 128, 256, 384)}
#: Widest networks served at a width: 324, the paper's, is padded to 352 columns of z and 384 units.
_DIMS = {384: 352}
_SHARED = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024, 120: 99 * 1024}


class _Trial(TritonEngine):
    """The engine with a plan that is not in the table."""

    def __init__(self, architecture: int, plan: Plan, found: dict[Variant, None]) -> None:
        super().__init__(architecture, lambda launch: found.setdefault(variant_of(launch)))
        self._trial = plan

    def _plan(self, *_: Any, **__: Any) -> Plan:
        return self._trial


def _variants(architecture: int, precision: Precision, plan: Plan) -> dict[str, list[Variant]]:
    """The fused variants of a plan by kernel."""
    shape = NetworkShape(min(plan.width, 324), min(plan.width, 324), 1)

    def empty(*sizes: int) -> torch.Tensor:
        return torch.empty(sizes, device="meta")

    rows = Rows(empty(4096, shape.dim), empty(1, shape.num_parameters), shape, empty(1, 1, shape.width), potential=0)
    rows.dtau = rows.tau
    found: dict[Variant, None] = {}
    engine = _Trial(architecture, plan, found)
    for value_only in (False, True):
        bars = Cotangents(empty(4096)) if value_only else Cotangents(empty(4096), empty(4096), rows.z, empty(4096))
        drive = None if value_only else empty(4096)
        out = engine.forward(rows, precision, keep=True, value_only=value_only, drive=drive)
        engine.backward(rows, precision, out, bars, Wanted(), value_only=value_only)
    by_name: dict[str, list[Variant]] = {"forward_rows": [], "backward_rows": []}
    for variant in found:
        by_name.get(variant.name, []).append(variant)
    return by_name


def _fits(architecture: int, variants: list[Variant]) -> bool:
    for variant in variants:
        try:
            compiled = triton.compile(variant.source, target=target(architecture), options=variant.options)
        except (RuntimeError, triton.errors.TritonError):
            return False  # the tile is none that the compiler can make
        if compiled.metadata.shared > _SHARED[architecture]:
            return False
        (found,) = usage(compiled.asm["cubin"]).values()
        if found.stack or found.local_accesses:
            return False
    return bool(variants)


def _tiles(width: int) -> Iterator[Tile]:
    warps = (4, 8) if width < 128 else (8,)
    chunks = [c for c in ((128,) if width > 256 else (64, 32)) if c <= width]
    for stages, chunk, units, count in itertools.product((2, 1), chunks, (32, 16), warps):
        yield Tile(chunk=chunk, units=units, dim=32, warps=count, stages=stages)


def choose(architecture: int, precision: Precision, width: int) -> dict[str, Any] | None:
    """The entry of a width, or None where nothing fits."""
    transposed = precision == Precision.TF32 and architecture in (90, 100)
    for rows in (64, 32):
        once = precision != Precision.IEEE and architecture != 100
        tiles = [Tile(32, 32, 32, 4, 2)] * 4
        base = Plan(rows, width, _DIMS.get(width, width), transposed, once, True, True, *tiles)

        def first(kernel: str, plans: Iterator[Plan]) -> Plan | None:
            fitting = (p for p in plans if _fits(architecture, _variants(architecture, precision, p)[kernel]))
            return next(fitting, None)

        backward = first("backward_rows", (replace(base, backward=t) for t in _tiles(width)))
        if backward is None:
            continue
        kept = (True, False)
        forward = first(
            "forward_rows",
            (replace(backward, forward=t, a_in_registers=k) for t in _tiles(width) for k in kept),
        )
        if forward is not None:
            return {
                "width": width,
                "rows": rows,
                "transposed": transposed,
                "a_in_registers": forward.a_in_registers,
                "forward": asdict(forward.forward),
                "backward": asdict(forward.backward),
            }
    return None


def _task(task: tuple[int, Precision, int]) -> tuple[tuple[int, Precision, int], dict[str, Any] | None]:
    return task, choose(*task)


def main() -> None:
    p = argparse.ArgumentParser(prog="python -m bench.choose_blocks")
    p.add_argument("--architectures", default=",".join(map(str, ARCHITECTURES)))
    p.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    arguments = p.parse_args()
    architectures = [int(x) for x in arguments.architectures.split(",")]
    tasks = [(a, q, w) for a in architectures for q in WIDTHS for w in WIDTHS[q]]
    table = json.loads(blocks._TABLE.read_text())
    for architecture, precision in itertools.product(architectures, WIDTHS):
        table[str(architecture)][precision.value]["fused"] = []
    found: dict[tuple[int, Precision, int], dict[str, Any] | None] = {}
    with ProcessPoolExecutor(arguments.processes) as pool:
        for done in as_completed([pool.submit(_task, task) for task in tasks]):
            task, entry = done.result()
            found[task] = entry
            print(f"sm_{task[0]} {task[1].value} {task[2]}: {entry or 'layer by layer'}", flush=True)
    for (architecture, precision, _), entry in sorted(found.items()):
        if entry is not None:
            table[str(architecture)][precision.value]["fused"].append(entry)
    blocks._TABLE.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
