"""What the backward of the rows leaves behind, and the gradients of the parameters that are summed from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ffrl_fast.gpu.engine import Wanted

from .backward import SUM_B_HID, SUM_B_IN, SUM_DTAU, SUM_TAU, sums_per_block
from .call import Activations, Call
from .launch import TRITON_TYPE, Launch
from .vector_gradient import vector_gradient
from .weight_gradient import sum_partials, weight_gradient


@dataclass(slots=True)
class Adjoint:
    """Rows' gradients (None: not wanted) and, in slots, the factors of dW; L layers where the first axis says so.

    dW_ℓ = d_p[ℓ]ᵀ s_ℓ₋₁ + h[ℓ]ᵀ d_v[ℓ] and dW_in = d_qᵀ inputs + g_aᵀ grad_cotangent, over the slots of a network.
    """

    z: Tensor | None  # (B, D); of the fused kernels with gates (networks, B, D), to be summed
    tau: Tensor | None  # (slots, Hp), or empty where all rows share one, whose sum is among ``sums``
    dtau: Tensor | None
    gates: Tensor | None  # (B, K)
    inputs: Tensor  # (slots, Dp)
    grad_cotangent: Tensor
    s: Tensor  # (slots, Hp): a + τ; the later layers' inputs are c_1 …
    g_a: Tensor  # (slots, Hp)
    h: Tensor  # (L, slots, Hp)
    d_v: Tensor  # (L, slots, Hp)
    d_p: Tensor  # (L, slots, Hp)
    d_q: Tensor  # (slots, Hp)
    d_a: Tensor  # (slots, Hp) in the sums' type: what reaches a past s
    sums: Tensor  # (all blocks, sums a block, Hp) in the sums' type


def empty_adjoint(call: Call, wanted: Wanted, value_only: bool) -> Adjoint:
    rows, plan, blocks = call.rows, call.plan, call.blocks
    depth, slots, width = rows.shape.depth, blocks.slots, plan.width
    derivatives = 0 if value_only else slots
    # The fused kernels leave the sum over the networks to be done.
    networks = (blocks.networks,) if rows.gates is not None and plan.fused else ()

    def conditioning_gradient(want: bool) -> Tensor | None:
        if not want:
            return None
        return call.empty(slots if call.per_row_conditioning else 0, width, dtype=call.sum_type)

    return Adjoint(
        z=call.empty(*networks, *rows.z.shape, dtype=call.sum_type if networks else rows.z.dtype) if wanted.z else None,
        tau=conditioning_gradient(wanted.tau and rows.tau is not None),
        dtau=conditioning_gradient(wanted.dtau and rows.dtau is not None and not value_only),
        gates=torch.empty_like(rows.gates) if wanted.gates and rows.gates is not None else None,
        inputs=call.empty(slots, plan.dim),
        grad_cotangent=call.empty(derivatives, plan.dim),
        s=call.empty(slots, width),
        g_a=call.empty(derivatives, width),
        h=call.empty(depth, derivatives, width),
        d_v=call.empty(depth, derivatives, width),
        d_p=call.empty(depth, slots, width),
        d_q=call.empty(slots, width),
        d_a=call.empty(derivatives, width, dtype=call.sum_type),
        sums=call.empty(blocks.count, sums_per_block(depth), width, dtype=call.sum_type),
    )


def conditioning_gradients(call: Call, adjoint: Adjoint) -> tuple[Tensor | None, Tensor | None]:
    """dL/dτ and dL/d(dτ/dt), each of the shape of what it belongs to."""
    rows = call.rows
    return (
        _conditioning_gradient(call, adjoint, rows.tau, adjoint.tau, SUM_TAU.value),
        _conditioning_gradient(call, adjoint, rows.dtau, adjoint.dtau, SUM_DTAU.value),
    )


def _conditioning_gradient(
    call: Call, adjoint: Adjoint, of: Tensor | None, slots: Tensor | None, which: int
) -> Tensor | None:
    if of is None or slots is None:
        return None
    # Networks that share one τ are summed afterwards, unless each row goes through one network only.
    alone = call.rows.index is not None and call.per_row_conditioning
    gradient = of.new_zeros(of.shape[0] if alone else max(of.shape[0], call.blocks.networks), *of.shape[1:])
    at, network = call.conditioning_strides(gradient)
    if call.per_row_conditioning:
        call.scatter(slots, gradient, out_at=at, out_network=network)
    else:
        _sum_vectors(call, adjoint, gradient, network, at, which, 1)
    return gradient if gradient.shape == of.shape else gradient.sum(0, keepdim=True)


def parameter_gradient(call: Call, kept: Activations, adjoint: Adjoint, value_only: bool) -> Tensor:
    """dL/dθ (K, P)."""
    rows, shape = call.rows, call.rows.shape
    d_theta = torch.zeros_like(rows.theta)
    first = call.first_network * shape.num_parameters
    _sum_vectors(call, adjoint, d_theta, shape.num_parameters, first + call.at("b_in"), SUM_B_IN.value, 1)
    hidden = shape.depth * shape.width + shape.width + 1  # their biases, w_out and b_out, which follow each other
    at = first + call.at("b_hid")
    _sum_vectors(call, adjoint, d_theta, shape.num_parameters, at, SUM_B_HID.value, shape.depth + 2, limit=hidden)
    a = adjoint
    _matrix(call, d_theta, "w_in", 0, (a.d_q, a.inputs, a.g_a, a.grad_cotangent), shape.dim, value_only)
    for i in range(shape.depth):
        _matrix(
            call,
            d_theta,
            "w_hid",
            i,
            (a.d_p[i], kept.c[i - 1] if i else a.s, a.h[i], a.d_v[i]),
            shape.width,
            value_only,
        )
    return d_theta


def _sum_vectors(
    call: Call, adjoint: Adjoint, out: Tensor, out_network: int, at: int, first: int, count: int, limit: int = -1
) -> None:
    width = call.rows.shape.width
    arguments = {
        "sums": adjoint.sums,
        "out": out,
        **call.ranges(),
        "out_network": out_network,
        "at": at,
        "size": width,
        "limit": count * width if limit < 0 else limit,
        "first_sum": first,
        "per_block": adjoint.sums.shape[1],
        "pitch": adjoint.sums.shape[2],
    }
    constants = {"BLOCK": 32, "BLOCK_SUMMED": 32, "SUM": TRITON_TYPE[call.sum_type]}
    grid = (-(-width // 32), count, call.blocks.networks)
    call.launch(Launch(vector_gradient, grid, arguments, constants, 4))


_PROGRAMS = 264  # enough to fill every GPU in the table twice
_FEWEST_ROWS = 512  # of a split: below, the second kernel's sum would cost more than the split saves


def _splits(rows: int, tiles: int) -> int:
    return max(1, min(-(-_PROGRAMS // tiles), -(-rows // _FEWEST_ROWS)))


def _matrix(
    call: Call, d_theta: Tensor, name: str, layer: int, factors: tuple[Tensor, ...], columns: int, value_only: bool
) -> None:
    """dW = Xᵀ Y + X₂ᵀ Y₂ of ``factors`` (X, Y, X₂, Y₂) into its place in d_theta."""
    shape, tile, networks = call.rows.shape, call.plan.weight, call.blocks.networks
    x, y, x_second, y_second = factors
    x_pitch, y_pitch = x.shape[1], y.shape[1]
    tiles = -(-x_pitch // tile.dim) * -(-y_pitch // tile.chunk)
    splits = _splits(call.rows.z.shape[0], tiles * networks)
    partial = call.empty(networks, splits, x_pitch, y_pitch, dtype=call.sum_type)
    arguments = {
        "x": x,
        "y": y,
        "x_second": x_second,
        "y_second": y_second,
        "partial": partial,
        **call.ranges(),
        "block_rows": call.plan.rows,
        "splits": splits,
        "has_second": int(not value_only),
        "x_pitch": x_pitch,
        "y_pitch": y_pitch,
    }
    constants = {
        "BLOCK_X": tile.dim,
        "BLOCK_Y": tile.chunk,
        "BLOCK_INNER": tile.units,
        "PRECISION": call.precision.value,
        "SUM": TRITON_TYPE[call.sum_type],
        "STAGES": tile.stages,
    }
    call.launch(Launch(weight_gradient, (tiles, splits, networks), arguments, constants, tile.warps, tile.stages))
    arguments = {
        "partial": partial,
        "d_theta": d_theta,
        "splits": splits,
        "first_network": call.first_network,
        "parameters": shape.num_parameters,
        "at": call.at(name, layer),
        "x_size": shape.width,
        "y_size": columns,
        "x_pitch": x_pitch,
        "y_pitch": y_pitch,
    }
    grid = (-(-shape.width // 32) * -(-columns // 32), networks)
    call.launch(Launch(sum_partials, grid, arguments, {"TILE": 32, "SUM": TRITON_TYPE[call.sum_type]}, 4))
