r"""One product of a network, x Wᵀ, with what follows it: the sweeps layer by layer, for any depth and width.

All products of all sweeps are this kernel, told at run time which epilogue ends it; so one compiled kernel a precision
serves every shape. Where a step of math is elementwise it is done on the product's tile, before that is stored.

Notation of :mod:`ffrl_fast.reference`; y stands for a or c_ℓ, y₁ for 1 − y².
"""

from __future__ import annotations

import triton
import triton.language as tl

from .backward import SUM_B_HID, SUM_B_IN, SUM_DTAU, SUM_TAU, folded_cotangents
from .elementary import activation, product, tanh
from .rows import (
    load_conditioning,
    load_row_scalars,
    load_rows,
    load_slots,
    load_vector,
    network_of_block,
    rows_of_block,
    store_rows,
    store_slots,
)
from .weights import times_transpose

# The epilogues of a product p; what each reads and writes stands at its function.
INPUT = tl.constexpr(0)
HIDDEN = tl.constexpr(1)
LAST = tl.constexpr(2)
REVERSE = tl.constexpr(3)
PLAIN = tl.constexpr(4)
TANGENT = tl.constexpr(5)
TANGENT_LAST = tl.constexpr(6)
TANGENT_REVERSE = tl.constexpr(7)
GRADIENT_COTANGENT = tl.constexpr(8)
REVERSE_COTANGENT = tl.constexpr(9)
LAST_COTANGENT = tl.constexpr(10)
LAYER_COTANGENT = tl.constexpr(11)

RUNTIME = (
    "epilogue first_layer rows blocks grouped gated first_network parameters vector_at inner w_network tau_at "
    "tau_network tau_per_row has_tau has_dtau out_tanh want_tau want_dtau networks has_dt_bar has_residual_bar "
    "has_u_bar has_added column_blocks per_block bias_layer w_out_sum derivatives"
).split()


@triton.jit(do_not_specialize=RUNTIME)
def layer(
    x,  # (slots, x_pitch), of which ``inner`` columns take part
    w,  # packed, row n for output unit n, pitch x_pitch
    theta,
    y,  # (slots, pitch): what the epilogue reads …
    v,
    added,  # … and this in the sums' type
    out,  # (slots, pitch): what it writes …
    out_second,
    out_sum,  # … and this in the sums' type
    partial,  # (slots, column blocks): sums over the columns of a tile
    value,  # (slots,) φ(o)
    d_out,  # (slots,) dL/do
    sums,  # (all blocks, per_block, pitch)
    tau,
    dtau,
    d_tau,
    d_dtau,
    gates,
    u_bar,
    dt_bar,
    residual_bar,
    order,
    block_network,
    epilogue,
    first_layer,  # whether the layer's output is a
    bias_layer,  # ℓ − 1 of a bias among the sums
    w_out_sum,
    per_block,
    rows,
    blocks,
    grouped,
    gated,
    first_network,
    parameters,
    vector_at,  # of the epilogue's vector: a bias or w_out
    w_out_at,
    width,
    inner,
    x_pitch,
    pitch,
    w_network,
    column_blocks,
    tau_at,
    tau_network,
    tau_per_row,
    networks,
    has_tau,
    has_dtau,
    has_u_bar,
    has_dt_bar,
    has_residual_bar,
    has_added,
    out_tanh,
    want_tau,
    want_dtau,
    derivatives,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_UNITS: tl.constexpr,
    BLOCK_INNER: tl.constexpr,
    PRECISION: tl.constexpr,
    OPERAND: tl.constexpr,
    SUM: tl.constexpr,
    STAGES: tl.constexpr,
):
    """One tile; grid (all blocks, pitch / BLOCK_UNITS)."""
    block = tl.program_id(0)
    column_block = tl.program_id(1)
    n = column_block * BLOCK_UNITS
    slot = block.to(tl.int64) * BLOCK_ROWS
    network = network_of_block(block, block_network, blocks, grouped, gated)
    w_k = w + network * w_network
    p = tl.zeros((BLOCK_ROWS, BLOCK_UNITS), SUM)
    for i in tl.range(0, inner, BLOCK_INNER, num_stages=STAGES):
        x_tile = load_slots(x, slot, x_pitch, i, BLOCK_ROWS, BLOCK_INNER, OPERAND)
        p = product(x_tile, times_transpose(w_k, n, i, x_pitch, BLOCK_UNITS, BLOCK_INNER), p, PRECISION)

    row = rows_of_block(block % blocks, order, rows, grouped, BLOCK_ROWS)
    weights = theta + (first_network + network) * parameters
    i_slot = slot + tl.arange(0, BLOCK_ROWS)
    at_partial = partial + i_slot * column_blocks + column_block
    at_tau = tau_at + network * tau_network
    at_sums = sums + block.to(tl.int64) * per_block * pitch + n
    column = tl.arange(0, BLOCK_UNITS)

    if epilogue == INPUT:
        # out = a = tanh(p + b), out_second = s = a + τ
        a = tanh(p + load_vector(weights + vector_at, n, width, BLOCK_UNITS, SUM), PRECISION)
        store_slots(out, slot, pitch, n, a, BLOCK_ROWS, BLOCK_UNITS)
        s = a + load_conditioning(
            tau, slot, at_tau, tau_per_row, pitch, n, width, has_tau, BLOCK_ROWS, BLOCK_UNITS, SUM
        )
        store_slots(out_second, slot, pitch, n, s, BLOCK_ROWS, BLOCK_UNITS)
    elif epilogue == HIDDEN:
        # out = c = tanh(p + b)
        c = tanh(p + load_vector(weights + vector_at, n, width, BLOCK_UNITS, SUM), PRECISION)
        store_slots(out, slot, pitch, n, c, BLOCK_ROWS, BLOCK_UNITS)
    elif epilogue == LAST:
        # out = c, out_second = ĥ = w_out c₁, partial = w_out · c
        c = tanh(p + load_vector(weights + vector_at, n, width, BLOCK_UNITS, SUM), PRECISION)
        w_out = load_vector(weights + w_out_at, n, width, BLOCK_UNITS, SUM)
        store_slots(out, slot, pitch, n, c, BLOCK_ROWS, BLOCK_UNITS)
        if derivatives != 0:
            store_slots(out_second, slot, pitch, n, w_out * (1.0 - c * c), BLOCK_ROWS, BLOCK_UNITS)
        tl.store(at_partial, tl.sum(c * w_out, 1))
    elif epilogue == REVERSE:
        # out = v = p, out_second = ĥ of the layer before, or for the first v a₁ = v y₁; there partial = v · dτ/dt
        y_tile = load_slots(y, slot, pitch, n, BLOCK_ROWS, BLOCK_UNITS, SUM)
        store_slots(out, slot, pitch, n, p, BLOCK_ROWS, BLOCK_UNITS)
        store_slots(out_second, slot, pitch, n, p * (1.0 - y_tile * y_tile), BLOCK_ROWS, BLOCK_UNITS)
        if first_layer != 0:
            rate = load_conditioning(
                dtau, slot, at_tau, tau_per_row, pitch, n, width, has_dtau, BLOCK_ROWS, BLOCK_UNITS, SUM
            )
            tl.store(at_partial, tl.sum(p * rate, 1))
    elif epilogue == PLAIN:
        # out_sum = p
        store_slots(out_sum, slot, pitch, n, p, BLOCK_ROWS, BLOCK_UNITS)
    elif epilogue == TANGENT:
        # out = out_sum = ẏ = y₁ p
        y_tile = load_slots(y, slot, pitch, n, BLOCK_ROWS, BLOCK_UNITS, SUM)
        y_dot = (1.0 - y_tile * y_tile) * p
        store_slots(out, slot, pitch, n, y_dot, BLOCK_ROWS, BLOCK_UNITS)
        store_slots(out_sum, slot, pitch, n, y_dot, BLOCK_ROWS, BLOCK_UNITS)
    elif epilogue == TANGENT_LAST:
        # out = −2 w_out c ċ
        c = load_slots(y, slot, pitch, n, BLOCK_ROWS, BLOCK_UNITS, SUM)
        w_out = load_vector(weights + w_out_at, n, width, BLOCK_UNITS, SUM)
        store_slots(out, slot, pitch, n, -2.0 * w_out * c * (1.0 - c * c) * p, BLOCK_ROWS, BLOCK_UNITS)
    elif epilogue == TANGENT_REVERSE:
        # out = v̇ y₁ − 2 v y ẏ, with v̇ = p and ẏ = added
        y_tile = load_slots(y, slot, pitch, n, BLOCK_ROWS, BLOCK_UNITS, SUM)
        v_tile = load_slots(v, slot, pitch, n, BLOCK_ROWS, BLOCK_UNITS, SUM)
        y_dot = load_slots(added, slot, pitch, n, BLOCK_ROWS, BLOCK_UNITS, SUM)
        back = p * (1.0 - y_tile * y_tile) - 2.0 * v_tile * y_tile * y_dot
        store_slots(out, slot, pitch, n, back, BLOCK_ROWS, BLOCK_UNITS)
    elif epilogue == GRADIENT_COTANGENT:
        # p = d_ga: out = d_v, out_second = g_a, out_sum = d_a without d_s, partial = v · d_gs; d(dτ/dt) = t̄ g_s
        a = load_slots(y, slot, pitch, n, BLOCK_ROWS, BLOCK_UNITS, SUM)
        v_tile = load_slots(v, slot, pitch, n, BLOCK_ROWS, BLOCK_UNITS, SUM)
        phi = tl.load(value + i_slot)
        gate = load_row_scalars(gates + network, row, gated, networks, SUM)
        slope = tl.where(gated != 0, gate, 1.0) * tl.where(out_tanh != 0, 1.0 - phi * phi, 1.0)
        _, bar_t, _ = folded_cotangents(row, u_bar, dt_bar, residual_bar, has_u_bar, has_dt_bar, has_residual_bar, SUM)
        rate = load_conditioning(
            dtau, slot, at_tau, tau_per_row, pitch, n, width, has_dtau, BLOCK_ROWS, BLOCK_UNITS, SUM
        )
        d_gs = p * (1.0 - a * a) + bar_t[:, None] * rate
        g_s = slope[:, None] * v_tile
        store_slots(out, slot, pitch, n, slope[:, None] * d_gs, BLOCK_ROWS, BLOCK_UNITS)
        store_slots(out_second, slot, pitch, n, g_s * (1.0 - a * a), BLOCK_ROWS, BLOCK_UNITS)
        store_slots(out_sum, slot, pitch, n, -2.0 * a * p * g_s, BLOCK_ROWS, BLOCK_UNITS)
        tl.store(at_partial, tl.sum(d_gs * v_tile, 1))
        if want_dtau != 0:
            d_rate = bar_t[:, None] * g_s
            if tau_per_row != 0:
                store_slots(d_dtau, slot, pitch, n, d_rate, BLOCK_ROWS, BLOCK_UNITS)
            else:
                tl.store(at_sums + SUM_DTAU * pitch + column, tl.sum(d_rate, 0))
    elif epilogue == REVERSE_COTANGENT:
        # p = d_ĥ: out = d_v of the next layer = p c₁, out_second = ĥ = v c₁, out_sum = −2 p v c, the share of d_c
        c = load_slots(y, slot, pitch, n, BLOCK_ROWS, BLOCK_UNITS, SUM)
        v_tile = load_slots(v, slot, pitch, n, BLOCK_ROWS, BLOCK_UNITS, SUM)
        c1 = 1.0 - c * c
        store_slots(out, slot, pitch, n, p * c1, BLOCK_ROWS, BLOCK_UNITS)
        store_slots(out_second, slot, pitch, n, v_tile * c1, BLOCK_ROWS, BLOCK_UNITS)
        store_slots(out_sum, slot, pitch, n, -2.0 * c * p * v_tile, BLOCK_ROWS, BLOCK_UNITS)
    elif epilogue == LAST_COTANGENT:
        # p = d_ĥ: out = d_p, out_second = ĥ; the sums of w_out and of the layer's bias
        c = load_slots(y, slot, pitch, n, BLOCK_ROWS, BLOCK_UNITS, SUM)
        w_out = load_vector(weights + w_out_at, n, width, BLOCK_UNITS, SUM)
        c1 = 1.0 - c * c
        d_o = tl.load(d_out + i_slot)[:, None]
        d_p = (-2.0 * c * p + d_o) * w_out * c1
        store_slots(out, slot, pitch, n, d_p, BLOCK_ROWS, BLOCK_UNITS)
        if derivatives != 0:
            store_slots(out_second, slot, pitch, n, w_out * c1, BLOCK_ROWS, BLOCK_UNITS)
        tl.store(at_sums + w_out_sum * pitch + column, tl.sum(p * c1 + d_o * c, 0))
        tl.store(at_sums + (SUM_B_HID + bias_layer) * pitch + column, tl.sum(d_p, 0))
    elif epilogue == LAYER_COTANGENT:
        # p = d_s: out = d_p of the layer before = (d_s + added) y₁ and the sum of its bias; for the first it is d_q,
        # and out_second = s = a + τ, and the sum or the rows of dL/dτ
        y_tile = load_slots(y, slot, pitch, n, BLOCK_ROWS, BLOCK_UNITS, SUM)
        d_y = p
        if has_added != 0:
            d_y += load_slots(added, slot, pitch, n, BLOCK_ROWS, BLOCK_UNITS, SUM)
        d_p = d_y * (1.0 - y_tile * y_tile)
        store_slots(out, slot, pitch, n, d_p, BLOCK_ROWS, BLOCK_UNITS)
        if first_layer != 0:
            s = y_tile + load_conditioning(
                tau, slot, at_tau, tau_per_row, pitch, n, width, has_tau, BLOCK_ROWS, BLOCK_UNITS, SUM
            )
            store_slots(out_second, slot, pitch, n, s, BLOCK_ROWS, BLOCK_UNITS)
        bias = tl.where(first_layer != 0, SUM_B_IN, SUM_B_HID + bias_layer)
        tl.store(at_sums + bias * pitch + column, tl.sum(d_p, 0))
        if want_tau != 0:
            if tau_per_row != 0:
                store_slots(d_tau, slot, pitch, n, p, BLOCK_ROWS, BLOCK_UNITS)
            else:
                tl.store(at_sums + SUM_TAU * pitch + column, tl.sum(p, 0))


OUTPUT_RUNTIME = (
    "rows blocks networks gated grouped per_block b_out_sum column_blocks has_u_bar has_dt_bar has_residual_bar "
    "out_tanh want_gates derivatives"
).split()


@triton.jit(do_not_specialize=OUTPUT_RUNTIME)
def output_cotangent(
    value,  # (slots,)
    partial,  # (slots, column blocks): v · d_gs
    d_out,  # (slots,)
    d_gates,  # (B, networks)
    sums,
    gates,
    u_bar,
    dt_bar,
    residual_bar,
    order,
    block_network,
    rows,
    blocks,
    grouped,
    gated,
    networks,
    b_out_sum,
    per_block,
    pitch,
    column_blocks,
    has_u_bar,
    has_dt_bar,
    has_residual_bar,
    out_tanh,
    want_gates,
    derivatives,
    BLOCK_ROWS: tl.constexpr,
    SUM: tl.constexpr,
):
    """d_o = g (ū + φ'' / φ' v · d_gs) φ' and dL/dg, of one block; grid (all blocks,)."""
    block = tl.program_id(0)
    slot = block.to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    network = network_of_block(block, block_network, blocks, grouped, gated)
    row = rows_of_block(block % blocks, order, rows, grouped, BLOCK_ROWS)
    bar_u, _, _ = folded_cotangents(row, u_bar, dt_bar, residual_bar, has_u_bar, has_dt_bar, has_residual_bar, SUM)
    d_slope = tl.zeros((BLOCK_ROWS,), SUM)
    if derivatives != 0:
        for i in range(column_blocks):
            d_slope += tl.load(partial + slot * column_blocks + i)
    phi = tl.load(value + slot)
    slope = tl.where(out_tanh != 0, 1.0 - phi * phi, 1.0)
    gate = load_row_scalars(gates + network, row, gated, networks, SUM)
    gate = tl.where(gated != 0, gate, 1.0)
    d_o = gate * (bar_u + tl.where(out_tanh != 0, -2.0 * phi * d_slope, 0.0)) * slope
    tl.store(d_out + slot, d_o)
    tl.store(sums + (block.to(tl.int64) * per_block + b_out_sum) * pitch, tl.sum(d_o, 0))
    d_gate = bar_u * phi + slope * d_slope
    tl.store(
        d_gates + row * networks + network, d_gate.to(d_gates.dtype.element_ty), mask=(row >= 0) & (want_gates != 0)
    )


FINISH_RUNTIME = (
    "rows blocks networks gated grouped first_network parameters b_out_at column_blocks parts has_tangent "
    "tangent_row has_drive out_tanh derivatives"
).split()


@triton.jit(do_not_specialize=FINISH_RUNTIME)
def finish(
    theta,
    partial_out,  # (slots, column blocks): w_out · c
    partial_rate,  # (slots, column blocks): v · dτ/dt
    out_gradient,  # (slots, pitch): ∇o
    out_hvp,  # (slots, pitch): ∇²o x
    tangent,  # (B, dim), or (dim,) with tangent_row 0
    gates,
    drive,
    value,  # (slots,) φ(o), written
    u,
    dt,
    grad,
    hvp,
    residual,
    order,
    block_network,
    rows,
    blocks,
    grouped,
    gated,
    networks,
    first_network,
    parameters,
    b_out_at,
    column_blocks,
    parts,
    dim,
    pitch,
    tangent_row,
    has_tangent,
    has_drive,
    out_tanh,
    derivatives,
    PART: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
    SUM: tl.constexpr,
):
    """From o and its derivatives to those of u = φ(o), summed over a row's networks; grid (parts of one network,)."""
    part = tl.program_id(0)
    own = network_of_block(part // parts, block_network, blocks, grouped, 0)
    row = rows_of_block(part, order, rows, grouped, PART)
    valid = row >= 0
    count = tl.where(gated != 0, networks, 1)
    zero = tl.full((), 0, tl.int64)
    u_sum = tl.zeros((PART,), SUM)
    rate_sum = tl.zeros((PART,), SUM)
    norm = tl.zeros((PART,), SUM)
    for k in range(count):
        first = (zero + k * blocks * parts + part) * PART
        slot = first + tl.arange(0, PART)
        out = tl.zeros((PART,), SUM)
        rate = tl.zeros((PART,), SUM)
        for i in range(column_blocks):
            out += tl.load(partial_out + slot * column_blocks + i)
            if derivatives != 0:
                rate += tl.load(partial_rate + slot * column_blocks + i)
        b_out = tl.load(theta + (first_network + own + k) * parameters + b_out_at).to(SUM)
        phi, slope = activation(out + b_out, out_tanh, PRECISION)
        tl.store(value + slot, phi)
        gate = load_row_scalars(gates + k, row, gated, networks, SUM)
        gate = tl.where(gated != 0, gate, 1.0)
        u_sum += gate * phi
        rate_sum += gate * slope * rate
        along = tl.zeros((PART,), SUM)
        if has_tangent != 0:
            for d in range(0, dim, BLOCK):
                x = load_rows(tangent, row, tangent_row, d, dim, 1, BLOCK, SUM)
                along += tl.sum(x * load_slots(out_gradient, first, pitch, d, PART, BLOCK, SUM), 1)
        along *= tl.where(out_tanh != 0, -2.0 * phi * slope, 0.0)
        if derivatives != 0:
            norm = tl.zeros((PART,), SUM)
            for d in range(0, dim, BLOCK):
                g_o = load_slots(out_gradient, first, pitch, d, PART, BLOCK, SUM)
                g = (gate * slope)[:, None] * g_o
                g += load_rows(grad, row, dim, d, dim, k > 0, BLOCK, SUM)
                store_rows(grad, row, dim, d, dim, g, 1, BLOCK)
                norm += tl.sum(g * g, 1)
                if has_tangent != 0:
                    h_o = load_slots(out_hvp, first, pitch, d, PART, BLOCK, SUM)
                    h = gate[:, None] * (slope[:, None] * h_o + along[:, None] * g_o)
                    h += load_rows(hvp, row, dim, d, dim, k > 0, BLOCK, SUM)
                    store_rows(hvp, row, dim, d, dim, h, 1, BLOCK)
            tl.debug_barrier()  # the next network adds to grad and hvp
    tl.store(u + row, u_sum.to(u.dtype.element_ty), mask=valid)
    tl.store(dt + row, rate_sum.to(dt.dtype.element_ty), mask=valid & (derivatives != 0))
    driven = rate_sum + 0.5 * norm + load_row_scalars(drive, row, has_drive, 1, SUM)
    tl.store(residual + row, driven.to(residual.dtype.element_ty), mask=valid & (has_drive != 0))
