"""Launches of the fused kernels of one hidden layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ffrl_fast.gpu.engine import Cotangents, Forward

from .adjoint import Adjoint
from .backward import backward_rows
from .blocks import Tile
from .call import Activations, Call
from .forward import forward_rows
from .launch import Launch


def _constants(call: Call, tile: Tile, value_only: bool) -> dict[str, Any]:
    plan = call.plan
    return {
        "DIM": plan.dim,
        "WIDTH": plan.width,
        "CHUNK": tile.chunk,
        "CHUNKS": plan.width // tile.chunk,
        "BLOCK_ROWS": plan.rows,
        "BLOCK_UNITS": tile.units,
        "BLOCK_DIM": tile.dim,
        "TRANSPOSED": plan.transposed,
        "READ_ONCE": plan.read_once,
        "VALUE_ONLY": value_only,
        "STAGES": tile.stages,
        **call.types(),
    }


def forward(
    call: Call, out: Forward, kept: Activations | None, *, value_only: bool, drive: Tensor | None = None
) -> None:
    """Fills u, and unless ``value_only`` dt, grad and, with ``drive``, the residual; and what is ``kept``.

    With gates ``out`` has one network's after the other: (networks, B) and (networks, B, D).
    """
    rows, tile, plan = call.rows, call.plan.forward, call.plan
    width = plan.width
    if kept is None:
        # a goes through memory where registers are short of it, kept or not.
        a = call.empty(0 if plan.a_in_registers else call.blocks.slots, width)
        memory = Activations(a, call.empty(0), call.empty(0), call.empty(0, dtype=call.sum_type))
    else:
        memory = kept
    arguments = {
        "z": rows.z,
        **call.matrices(),
        **call.placement(),
        **call.sizes(),
        **call.conditioning(),
        "drive": call.given(drive),
        "u": out.u,
        "dt": out.dt,
        "grad": out.grad,
        "residual": call.given(out.residual),
        "a_kept": memory.a,
        "c_kept": memory.c,
        "v_kept": memory.v,
        "value_kept": memory.value,
        "z_pitch": rows.z.stride(0),
        "b_in_at": call.at("b_in"),
        "b_hid_at": call.at("b_hid"),
        "w_out_at": call.at("w_out"),
        "b_out_at": call.at("b_out"),
        "keep": int(kept is not None),
        "has_drive": int(drive is not None),
        "out_tanh": int(rows.shape.out_activation == "tanh"),
    }
    constants = {**_constants(call, tile, value_only), "A_IN_REGISTERS": plan.a_in_registers}
    call.launch(Launch(forward_rows, (call.blocks.count,), arguments, constants, tile.warps, tile.stages))


def backward(
    call: Call,
    kept: Activations,
    cotangents: Cotangents,
    adjoint: Adjoint,
    *,
    value_only: bool,
) -> None:
    """Fills ``adjoint``, but for its inputs and its cotangent of ∇u, which it reads."""
    rows, tile = call.rows, call.plan.backward
    arguments = {
        **call.matrices(),
        **call.placement(),
        **call.sizes(),
        **call.conditioning(),
        **call.gate_weights(),
        **call.cotangents(cotangents),
        "a_kept": kept.a,
        "c_kept": kept.c,
        "v_kept": kept.v,
        "value_kept": kept.value,
        "d_z": call.given(adjoint.z),
        "d_tau": adjoint.sums if adjoint.tau is None else adjoint.tau,
        "d_dtau": adjoint.sums if adjoint.dtau is None else adjoint.dtau,
        "d_gates": call.given(adjoint.gates),
        "grad_cotangent": adjoint.grad_cotangent,
        "s": adjoint.s,
        "g_a": adjoint.g_a,
        "h": adjoint.h,
        "d_v": adjoint.d_v,
        "d_p": adjoint.d_p,
        "d_q": adjoint.d_q,
        "d_a": adjoint.d_a,
        "sums": adjoint.sums,
        "w_out_at": call.at("w_out"),
        "out_tanh": int(rows.shape.out_activation == "tanh"),
        "want_z": int(adjoint.z is not None),
        "want_tau": int(adjoint.tau is not None),
        "want_dtau": int(adjoint.dtau is not None),
        "want_gates": int(adjoint.gates is not None),
    }
    constants = _constants(call, tile, value_only)
    call.launch(Launch(backward_rows, (call.blocks.count,), arguments, constants, tile.warps, tile.stages))
