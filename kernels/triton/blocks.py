"""The block sizes of the kernels, from a table that is part of the source: nothing is searched for at run time.

``blocks.json`` holds, for each architecture and precision, the widest network that a fused configuration serves, in
rising order; what is wider goes layer by layer. Each entry was compiled without a register spilled.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ffrl_fast.gpu.engine import Precision
from ffrl_fast.layout import NetworkShape

#: The architectures with a column in the table: compute capability 8.x, 9.0, 10.x, 12.x.
ARCHITECTURES = (80, 90, 100, 120)
_TABLE = Path(__file__).with_name("blocks.json")


@dataclass(frozen=True, slots=True)
class Tile:
    """How one kernel cuts its work."""

    chunk: int  # columns of a tile of s and v; for a matrix kernel, columns of its tile
    units: int  # output units a step of the pass over W_hid; for a matrix kernel, the inner length of a step
    dim: int  # columns of z a step; for dW, rows of its tile
    warps: int
    stages: int


@dataclass(frozen=True, slots=True)
class Plan:
    """How a network of one shape is run."""

    rows: int  # of a block
    width: int  # H padded
    dim: int  # D padded
    transposed: bool  # products with W read the packed transpose
    read_once: bool  # a tile of W_hid serves both of its products
    fused: bool
    a_in_registers: bool
    forward: Tile  # fused alone
    backward: Tile
    layer: Tile
    weight: Tile  # dim × chunk of dW: tf32 wgmma would want its operands feature-major, mma.sync, of 32 rows, does not


def architecture_of(device: torch.device) -> int:
    """The column of the table for a device; the interpreter's CPU takes the first."""
    if device.type != "cuda":
        return 80
    capability = torch.cuda.get_device_capability(device)
    if capability in ((8, 6), (8, 7), (8, 9)):
        return 120  # mma.sync as on 8.0, but with the shared memory of 12.0
    return max((x for x in ARCHITECTURES if x // 10 <= capability[0]), default=80)


@functools.cache
def _table() -> Any:
    return json.loads(_TABLE.read_text())


def _up(n: int, to: int) -> int:
    return -(-n // to) * to


def _narrow(tile: Tile, shape: NetworkShape) -> Tile:
    """A matrix of up to 64 columns has no use for a wider tile."""
    narrow = replace(tile, chunk=min(tile.chunk, 64), dim=min(tile.dim, 64))
    return narrow if max(shape.dim, shape.width) <= 64 else tile


@functools.lru_cache(maxsize=256)
def plan_for(shape: NetworkShape, precision: Precision, architecture: int, tangent: bool = False) -> Plan:
    """The plan of a shape; with ``tangent`` layer by layer at every size."""
    column = _table()[str(architecture)][precision.value]
    layer, weight = Tile(**column["layer"]), _narrow(Tile(**column["weight"]), shape)
    fused = [x for x in column["fused"] if x["width"] >= shape.width]
    if fused and shape.depth == 1 and not tangent:
        row = fused[0]
        forward, backward = Tile(**row["forward"]), Tile(**row["backward"])
        width = row["width"]
        dim = _up(shape.dim, max(forward.dim, backward.dim))
        read_once = precision != Precision.IEEE and architecture != 100
        return Plan(
            row["rows"],
            width,
            dim,
            row["transposed"],
            read_once,
            True,
            row["a_in_registers"],
            forward,
            backward,
            layer,
            weight,
        )
    pad = max(layer.chunk, layer.units)
    return Plan(
        column["layer_rows"],
        _up(shape.width, pad),
        _up(shape.dim, pad),
        True,
        False,
        False,
        False,
        layer,
        layer,
        layer,
        weight,
    )
