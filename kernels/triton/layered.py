"""The sweeps layer by layer: any depth and width, tangents, and what does not fit the fused kernels."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ffrl_fast.gpu.engine import Cotangents, Forward
from triton.language import constexpr

from . import layers
from .adjoint import Adjoint
from .backward import sums_per_block
from .call import PART, Activations, Call
from .launch import TRITON_TYPE, Launch


class Layers:
    """Launches the products of one call. A product's input and outputs are workspaces (slots, pitch)."""

    def __init__(self, call: Call) -> None:
        self._call = call
        rows, shape = call.rows, call.rows.shape
        tile = call.plan.layer
        self.column_blocks = call.plan.width // tile.chunk
        self._nothing = {
            **{name: call.empty(0) for name in ("y", "v", "out", "out_second")},
            **{
                name: call.empty(0, dtype=call.sum_type)
                for name in ("added", "out_sum", "partial", "value", "d_out", "sums", "d_tau", "d_dtau")
            },
            **call.cotangents(Cotangents()),
            **call.gate_weights(),
            **call.placement(),
            **call.conditioning(),
            **dict.fromkeys(["first_layer", "bias_layer", "has_added", "want_tau", "want_dtau", "vector_at"], 0),
            "theta": rows.theta,
            "first_network": call.first_network,
            "parameters": shape.num_parameters,
            "width": shape.width,
            "w_out_at": call.at("w_out"),
            "w_out_sum": sums_per_block(shape.depth) - 2,
            "per_block": sums_per_block(shape.depth),
            "column_blocks": self.column_blocks,
            "out_tanh": int(shape.out_activation == "tanh"),
            "derivatives": 1,
        }
        self._constants = {
            "BLOCK_ROWS": call.plan.rows,
            "BLOCK_UNITS": tile.chunk,
            "BLOCK_INNER": tile.units,
            "STAGES": tile.stages,
            **call.types(),
        }

    def __call__(self, epilogue: constexpr, x: Tensor, w: Tensor, **given: Any) -> None:
        """The product x Wᵀ for ``w`` (networks, units, inner), strided over networks, and its epilogue."""
        tile, (_, pitch, x_pitch) = self._call.plan.layer, w.shape
        arguments = {
            **self._nothing,
            "x": x,
            "w": w,
            "w_network": w.stride(0),
            "x_pitch": x_pitch,
            "pitch": pitch,
            "inner": x_pitch,
            "epilogue": epilogue.value,
            **given,
        }
        grid = (self._call.blocks.count, pitch // tile.chunk)
        self._call.launch(Launch(layers.layer, grid, arguments, self._constants, tile.warps, tile.stages))

    def partial(self) -> Tensor:
        """Room for the sums over the columns of a tile."""
        return self._call.empty(self._call.blocks.slots, self.column_blocks, dtype=self._call.sum_type)


def forward(
    call: Call,
    out: Forward,
    kept: Activations,
    *,
    value_only: bool,
    drive: Tensor | None = None,
    tangent: Tensor | None = None,
) -> None:
    """Fills ``kept`` and what there is room for in ``out``."""
    run, packed, depth = Layers(call), call.packed, call.rows.shape.depth
    slots, width, dim = call.blocks.slots, call.plan.width, call.plan.dim
    derivatives = int(not value_only)
    s, h = call.empty(slots, width), call.empty(slots, width)
    out_part, rate_part = run.partial(), run.partial()

    x = call.empty(slots, dim)
    call.gather(call.rows.z, x)
    run(layers.INPUT, x, packed.w_in, vector_at=call.at("b_in"), out=kept.a, out_second=s)
    for i in range(depth - 1):
        run(layers.HIDDEN, s, packed.w_hid[:, i], vector_at=call.at("b_hid", i), out=kept.c[i])
        s = kept.c[i]
    run(
        layers.LAST,
        s,
        packed.w_hid[:, -1],
        vector_at=call.at("b_hid", depth - 1),
        out=kept.c[-1],
        out_second=h,
        partial=out_part,
        derivatives=derivatives,
    )
    gradient = hvp = call.empty(0, dtype=call.sum_type)
    if derivatives:
        back = call.empty(slots, width)
        for i in reversed(range(depth)):
            y = kept.c[i - 1] if i else kept.a
            w = packed.w_hid_transposed[:, i]
            run(layers.REVERSE, h, w, y=y, out=kept.v[i], out_second=back, partial=rate_part, first_layer=int(i == 0))
            h, back = back, h
        gradient = call.empty(slots, dim, dtype=call.sum_type)
        run(layers.PLAIN, h, packed.w_in_transposed, out_sum=gradient)
    if tangent is not None:
        hvp = call.empty(slots, dim, dtype=call.sum_type)
        _along(call, run, kept, tangent, x, hvp)
    _finish(call, out, kept, (out_part, rate_part, gradient, hvp), drive, tangent, derivatives)


def _along(call: Call, run: Layers, kept: Activations, tangent: Tensor, x: Tensor, hvp: Tensor) -> None:
    """hvp (slots, Dp) = ∇²o times the tangent: the derivative of both sweeps along it. Overwrites x."""
    packed, depth = call.packed, call.rows.shape.depth
    slots, width = call.blocks.slots, call.plan.width
    call.gather(tangent.expand(call.rows.z.shape), x)
    y_dot = call.empty(depth, slots, width, dtype=call.sum_type)  # ȧ, ċ_1 … ċ_{L−1}
    forth, back = call.empty(slots, width), call.empty(slots, width)
    run(layers.TANGENT, x, packed.w_in, y=kept.a, out=forth, out_sum=y_dot[0])
    for i in range(depth - 1):
        run(layers.TANGENT, forth, packed.w_hid[:, i], y=kept.c[i], out=back, out_sum=y_dot[i + 1])
        forth, back = back, forth
    run(layers.TANGENT_LAST, forth, packed.w_hid[:, -1], y=kept.c[-1], out=back)
    for i in reversed(range(depth)):
        y = kept.c[i - 1] if i else kept.a
        w = packed.w_hid_transposed[:, i]
        forth, back = back, forth
        run(layers.TANGENT_REVERSE, forth, w, y=y, v=kept.v[i], added=y_dot[i], out=back)
    run(layers.PLAIN, back, packed.w_in_transposed, out_sum=hvp)


def _finish(
    call: Call,
    out: Forward,
    kept: Activations,
    parts: tuple[Tensor, ...],
    drive: Tensor | None,
    tangent: Tensor | None,
    derivatives: int,
) -> None:
    rows, shape = call.rows, call.rows.shape
    arguments = {
        "theta": rows.theta,
        **dict(zip(("partial_out", "partial_rate", "out_gradient", "out_hvp"), parts, strict=True)),
        "tangent": call.given(tangent),
        **call.gate_weights(),
        **call.placement(),
        "drive": call.given(drive),
        "value": kept.value,
        "u": out.u,
        "dt": out.dt,
        "grad": out.grad,
        "hvp": call.given(out.hvp),
        "residual": call.given(out.residual),
        "first_network": call.first_network,
        "parameters": shape.num_parameters,
        "b_out_at": call.at("b_out"),
        "column_blocks": parts[0].shape[1],
        "parts": call.parts,
        "dim": shape.dim,
        "pitch": call.plan.dim,
        "tangent_row": 0 if tangent is None or tangent.dim() == 1 else tangent.stride(0),
        "has_tangent": int(tangent is not None),
        "has_drive": int(drive is not None),
        "out_tanh": int(shape.out_activation == "tanh"),
        "derivatives": derivatives,
    }
    constants = {
        "PART": PART,
        "BLOCK": 64,
        "PRECISION": call.precision.value,
        "SUM": TRITON_TYPE[call.sum_type],
    }
    # With gates one block takes its rows through all their networks.
    call.launch(Launch(layers.finish, (call.blocks.per_network * call.parts,), arguments, constants, 4))


def backward(call: Call, kept: Activations, cotangents: Cotangents, adjoint: Adjoint, *, value_only: bool) -> None:
    """Fills ``adjoint``, but for its inputs and its cotangent of ∇u, which it reads."""
    run, packed, depth = Layers(call), call.packed, call.rows.shape.depth
    slots, width, dim = call.blocks.slots, call.plan.width, call.plan.dim
    derivatives = int(not value_only)
    bars = {**call.cotangents(cotangents), "value": kept.value, "sums": adjoint.sums}
    d_tau = {
        "d_tau": adjoint.sums if adjoint.tau is None else adjoint.tau,
        "d_dtau": adjoint.sums if adjoint.dtau is None else adjoint.dtau,
    }
    slope_part = run.partial()
    d_c = call.empty(depth if derivatives else 0, slots, width, dtype=call.sum_type)  # the share of c_ℓ, ℓ < L

    if derivatives:
        run(
            layers.GRADIENT_COTANGENT,
            adjoint.grad_cotangent,
            packed.w_in,
            y=kept.a,
            v=kept.v[0],
            out=adjoint.d_v[0],
            out_second=adjoint.g_a,
            out_sum=adjoint.d_a,
            partial=slope_part,
            want_dtau=int(adjoint.dtau is not None),
            **bars,
            **d_tau,
        )
        for i in range(depth - 1):
            run(
                layers.REVERSE_COTANGENT,
                adjoint.d_v[i],
                packed.w_hid[:, i],
                y=kept.c[i],
                v=kept.v[i + 1],
                out=adjoint.d_v[i + 1],
                out_second=adjoint.h[i],
                out_sum=d_c[i],
            )
    d_out = call.empty(slots, dtype=call.sum_type)
    _output(call, run, bars, adjoint, slope_part, d_out, derivatives)
    run(
        layers.LAST_COTANGENT,
        adjoint.d_v[-1] if derivatives else adjoint.d_p[-1],
        packed.w_hid[:, -1],
        inner=width if derivatives else 0,
        y=kept.c[-1],
        out=adjoint.d_p[-1],
        out_second=adjoint.h[-1],
        d_out=d_out,
        sums=adjoint.sums,
        bias_layer=depth - 1,
        derivatives=derivatives,
    )
    for i in reversed(range(depth)):
        first = i == 0
        run(
            layers.LAYER_COTANGENT,
            adjoint.d_p[i],
            packed.w_hid_transposed[:, i],
            y=kept.a if first else kept.c[i - 1],
            added=(adjoint.d_a if first else d_c[i - 1]) if derivatives else slope_part,
            has_added=derivatives,
            out=adjoint.d_q if first else adjoint.d_p[i - 1],
            out_second=adjoint.s,
            sums=adjoint.sums,
            bias_layer=i - 1,
            first_layer=int(first),
            want_tau=int(first and adjoint.tau is not None),
            **d_tau,
        )
    if adjoint.z is not None:
        d_z = call.empty(slots, dim, dtype=call.sum_type)
        run(layers.PLAIN, adjoint.d_q, packed.w_in_transposed, out_sum=d_z)
        call.scatter(d_z, adjoint.z, summed=call.rows.gates is not None)


def _output(
    call: Call, run: Layers, bars: dict[str, Any], adjoint: Adjoint, slope_part: Tensor, d_out: Tensor, derivatives: int
) -> None:
    shape = call.rows.shape
    arguments = {
        **bars,
        **call.gate_weights(),
        **call.placement(),
        "partial": slope_part,
        "d_out": d_out,
        "d_gates": call.given(adjoint.gates),
        "b_out_sum": sums_per_block(shape.depth) - 1,
        "per_block": sums_per_block(shape.depth),
        "pitch": call.plan.width,
        "column_blocks": run.column_blocks,
        "out_tanh": int(shape.out_activation == "tanh"),
        "want_gates": int(adjoint.gates is not None),
        "derivatives": derivatives,
    }
    constants = {"BLOCK_ROWS": call.plan.rows, "SUM": TRITON_TYPE[call.sum_type]}
    call.launch(Launch(layers.output_cotangent, (call.blocks.count,), arguments, constants, 4))
