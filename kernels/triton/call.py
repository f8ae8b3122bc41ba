"""One call of the engine: its plan, its blocks, its types, its packed weights, and the arguments all kernels share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ffrl_fast.gpu.engine import Cotangents, Forward, Precision, Rows

from .blocks import Plan
from .gather import combine, gather, scatter
from .groups import Blocks, blocks_of
from .launch import TRITON_TYPE, Launch, Launcher
from .packing import TILE, pack

PART = 16  # rows


@dataclass(slots=True)
class Activations:
    """What the backward needs of the forward; rows in slots, columns padded."""

    a: Tensor  # (slots, Hp)
    c: Tensor  # (L, slots, Hp)
    v: Tensor  # (L, slots, Hp); v[ℓ] = W_ℓᵀ ĥ_ℓ
    value: Tensor  # (slots,) φ(o)


@dataclass(slots=True)
class Packed:
    """The weight matrices of the networks that a call evaluates, as :func:`.packing.pack` leaves them."""

    w_in: Tensor
    w_in_transposed: Tensor
    w_hid: Tensor
    w_hid_transposed: Tensor


@dataclass(slots=True)
class Call:
    rows: Rows
    precision: Precision
    plan: Plan
    launch: Launcher
    blocks: Blocks = field(init=False)
    packed: Packed = field(init=False)

    def __post_init__(self) -> None:
        self.blocks = blocks_of(self.rows, self.plan.rows)
        self.packed = self._pack()

    @property
    def sum_type(self) -> torch.dtype:
        """Of everything between the products."""
        return torch.float64 if self.rows.z.dtype == torch.float64 else torch.float32

    @property
    def operand_type(self) -> torch.dtype:
        """Of the products' operands and of what is kept."""
        return torch.bfloat16 if self.precision == Precision.BF16 else self.sum_type

    @property
    def parts(self) -> int:
        """Of a block, in the kernels that move rows."""
        return self.plan.rows // PART

    @property
    def first_network(self) -> int:
        return max(self.rows.potential, 0)

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.empty(shape, dtype=dtype or self.operand_type, device=self.rows.z.device)

    def given(self, x: Tensor | None) -> Tensor:
        """x, or a pointer of the same type that no kernel follows."""
        return self.rows.theta if x is None else x

    def at(self, name: str, layer: int = 0) -> int:
        """Where a weight, or that of a hidden layer, begins in a row of theta."""
        offset, shape = self.rows.shape.fields[name]
        size = 1
        for n in shape[1:]:
            size *= n
        return offset + layer * size

    def empty_fields(self, value_only: bool) -> Forward:
        """Room for u, dt and grad: with gates of each network in turn, (networks, B, …), in the sums' type."""
        z, count = self.rows.z, self.rows.z.shape[0]
        networks = () if self.rows.gates is None else (self.blocks.networks,)
        dtype = z.dtype if self.rows.gates is None else self.sum_type
        derivatives = 0 if value_only else count
        return Forward(
            self.empty(*networks, count, dtype=dtype),
            self.empty(*networks, derivatives, dtype=dtype),
            self.empty(*networks, derivatives, z.shape[1], dtype=dtype),
            None,
            None,
            (),
        )

    def empty_outputs(self) -> Forward:
        """Room for u, dt and grad that nobody reads."""
        z = self.rows.z
        return Forward(z.new_empty(len(z)), z.new_empty(len(z)), torch.empty_like(z), None, None, ())

    def activations(self, saved: tuple[Tensor, ...] | None = None) -> Activations:
        return Activations(*(saved or empty_activations(self.rows, self.plan, self.blocks.slots, self.operand_type)))

    def placement(self) -> dict[str, Any]:
        """The arguments that say which rows and which network a block has."""
        rows, blocks = self.rows, self.blocks
        device = rows.z.device
        return {
            "order": torch.empty(0, dtype=torch.int64, device=device) if blocks.order is None else blocks.order,
            "block_network": self._int32(blocks.network),
            "rows": rows.z.shape[0],
            "blocks": blocks.per_network,
            "grouped": int(blocks.grouped),
            "gated": int(rows.gates is not None),
        }

    def sizes(self) -> dict[str, Any]:
        shape = self.rows.shape
        return {
            "first_network": self.first_network,
            "parameters": shape.num_parameters,
            "dim": shape.dim,
            "width": shape.width,
        }

    def gate_weights(self) -> dict[str, Any]:
        return {"gates": self.given(self.rows.gates), "networks": self.blocks.networks}

    def cotangents(self, cotangents: Cotangents) -> dict[str, Any]:
        """Those of one number a row."""
        bars = {"u_bar": cotangents.u, "dt_bar": cotangents.dt, "residual_bar": cotangents.residual}
        return {
            **{name: self.given(x) for name, x in bars.items()},
            **{f"has_{name}": int(x is not None) for name, x in bars.items()},
        }

    def gather(
        self,
        x: Tensor | None,
        out: Tensor,
        added: Tensor | None = None,
        factor: Tensor | None = None,
        *,
        x_at: int = 0,
        x_network: int = 0,
    ) -> None:
        """out (slots, pitch) = x + factor · added for the row of each slot; x and added (B, size) or None, 0."""
        pitch = out.shape[1]
        block = _column_block(pitch)
        arguments = {
            "x": self.given(x),
            "added": self.given(added),
            "factor": self.given(factor),
            "out": out,
            **self.placement(),
            "size": self.rows.shape.dim if x is None else x.shape[-1],
            "x_at": x_at,
            "x_network": x_network,
            "x_row": pitch if x is None else x.stride(-2),
            "pitch": pitch,
            "given": int(x is not None),
            "added_given": int(added is not None),
            "parts": self.parts,
        }
        constants = {"PART": PART, "BLOCK": block, "SUM": TRITON_TYPE[self.sum_type]}
        self.launch(Launch(gather, (self.blocks.count * self.parts, pitch // block), arguments, constants, 4))

    def scatter(self, x: Tensor, out: Tensor, *, summed: bool = False, out_at: int = 0, out_network: int = 0) -> None:
        """The slots of x (slots, pitch) into the rows of out (B, size); ``summed`` over the networks of a row."""
        blocks, pitch, size = self.blocks, x.shape[1], out.shape[-1]
        block = _column_block(pitch)
        arguments = {
            "x": x,
            "out": out,
            **self.placement(),
            "size": size,
            "out_at": out_at,
            "out_network": out_network,
            "pitch": pitch,
            "summed": blocks.networks if summed else 1,
            "parts": self.parts,
        }
        constants = {"PART": PART, "BLOCK": block, "SUM": TRITON_TYPE[self.sum_type]}
        grid = ((blocks.per_network if summed else blocks.count) * self.parts, -(-size // block))
        self.launch(Launch(scatter, grid, arguments, constants, 4))

    def combine(self, each: Forward, out: Forward, drive: Tensor | None, value_only: bool) -> None:
        """out = Σ_k g_k (u, dt, grad) of ``each`` (networks, …), and the residual of the sums."""
        rows = self.rows
        arguments = {
            "u_each": each.u,
            "dt_each": each.dt,
            "grad_each": each.grad,
            **self.gate_weights(),
            "drive": self.given(drive),
            "u": out.u,
            "dt": out.dt,
            "grad": out.grad,
            "residual": self.given(out.residual),
            "rows": rows.z.shape[0],
            "dim": rows.shape.dim,
            "gated": int(rows.gates is not None),
            "has_drive": int(drive is not None),
            "value_only": int(value_only),
        }
        constants = {"BLOCK_ROWS": PART, "BLOCK": 32, "SUM": TRITON_TYPE[self.sum_type]}
        self.launch(Launch(combine, (-(-rows.z.shape[0] // PART),), arguments, constants, 8))

    def ranges(self) -> dict[str, Any]:
        """The arguments that say which blocks a network has."""
        blocks = self.blocks
        return {
            "starts": self._int32(blocks.starts),
            "blocks": blocks.per_network,
            "grouped": int(blocks.grouped),
        }

    def _int32(self, x: Tensor | None) -> Tensor:
        return torch.empty(0, dtype=torch.int32, device=self.rows.z.device) if x is None else x

    def conditioning(self) -> dict[str, Any]:
        """The arguments of τ and dτ/dt: vectors, or where each row has its own workspaces (slots, Hp)."""
        rows = self.rows
        at, network = self.conditioning_strides(rows.tau if rows.tau is not None else rows.dtau)
        tau, dtau = rows.tau, rows.dtau
        if self.per_row_conditioning:
            tau, dtau = (self._in_slots(x, at, network) for x in (tau, dtau))
        return {
            "tau": self.given(tau),
            "dtau": self.given(dtau),
            "tau_at": at,
            "tau_network": network,
            "tau_per_row": int(self.per_row_conditioning),
            "has_tau": int(tau is not None),
            "has_dtau": int(dtau is not None),
        }

    def conditioning_strides(self, x: Tensor | None) -> tuple[int, int]:
        """Where the first network's part of τ or its like begins, and how far it is to the next one's."""
        size = 0 if x is None or x.shape[0] == 1 else x.shape[1] * x.shape[2]
        return self.first_network * size, size

    def _in_slots(self, x: Tensor | None, at: int, network: int) -> Tensor | None:
        if x is None:
            return None
        out = self.empty(self.blocks.slots, self.plan.width, dtype=x.dtype)
        self.gather(x, out, x_at=at, x_network=network)
        return out

    @property
    def per_row_conditioning(self) -> bool:
        given = self.rows.tau if self.rows.tau is not None else self.rows.dtau
        return given is not None and given.shape[1] > 1

    def matrices(self) -> dict[str, Any]:
        packed = self.packed
        return {
            "theta": self.rows.theta,
            "w_in": packed.w_in,
            "w_in_transposed": packed.w_in_transposed,
            "w_hid": packed.w_hid,
            "w_hid_transposed": packed.w_hid_transposed,
        }

    def types(self) -> dict[str, Any]:
        return {
            "PRECISION": self.precision.value,
            "OPERAND": TRITON_TYPE[self.operand_type],
            "SUM": TRITON_TYPE[self.sum_type],
        }

    def _pack(self) -> Packed:
        shape, plan, networks = self.rows.shape, self.plan, self.blocks_networks
        depth, h, d = shape.depth, plan.width, plan.dim
        packed = Packed(
            self.empty(networks, h, d),
            self.empty(networks, d, h),
            self.empty(networks, depth, h, h),
            self.empty(networks, depth, h, h),
        )
        tile = TILE.value
        tiles = -(-h // tile) * -(-max(h, d) // tile)
        arguments = {
            **{name: x for name, x in zip(Packed.__slots__, _tensors(packed), strict=True)},
            "theta": self.rows.theta,
            "first_network": self.first_network,
            "parameters": shape.num_parameters,
            "w_in_at": self.at("w_in"),
            "w_hid_at": self.at("w_hid"),
            "dim": shape.dim,
            "width": shape.width,
            "depth": depth,
            "dim_pitch": d,
            "width_pitch": h,
        }
        self.launch(Launch(pack, (tiles, 1 + depth, networks), arguments, {"PRECISION": self.precision.value}, 4))
        return packed

    @property
    def blocks_networks(self) -> int:
        return self.blocks.networks


def _column_block(pitch: int) -> int:
    """Columns a program, the same for every pitch but the narrowest."""
    return min(64, pitch & -pitch)


def _tensors(packed: Packed) -> tuple[Tensor, ...]:
    return packed.w_in, packed.w_in_transposed, packed.w_hid, packed.w_hid_transposed


def empty_activations(rows: Rows, plan: Plan, slots: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=rows.z.device)

    depth, width = rows.shape.depth, plan.width
    value = torch.float64 if rows.z.dtype == torch.float64 else torch.float32
    return (
        empty(slots, width),
        empty(depth, slots, width),
        empty(depth, slots, width),
        torch.empty(slots, dtype=value, device=rows.z.device),
    )
