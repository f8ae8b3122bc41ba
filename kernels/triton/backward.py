r"""The fused backward of one hidden layer: what each row hands on, and the factors of the weights' gradients.

It has the forward's shape. From the cotangent of ∇u flows d_v, then one pass over W_hid gives d_p block by block and
with it what W_hid adds to d_s:

.. math::
    d_{ga} &= W_{in} \bar g & d_{gs} &= d_{ga} \odot (1 - a^2) + \bar t \, \dot\tau \\
    d_v &= \varphi' d_{gs} & d_o &= (\bar u - 2 u \, v \cdot d_{gs}) \varphi' \\
    d_p &= ((W_{hid} d_v) \odot (-2 c) + d_o) \odot w_{out} \odot (1 - c^2) & d_s &= W_{hid}^T d_p \\
    d_q &= (d_s - 2 a \odot d_{ga} \odot \varphi' v) \odot (1 - a^2) & d_z &= W_{in}^T d_q

The gradients of the matrices are sums over rows of outer products of what is stored here (:mod:`.weight_gradient`);
those of the vectors are summed within the block, the blocks' sums by :mod:`.vector_gradient`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .elementary import product
from .rows import (
    load_conditioning,
    load_row_scalars,
    load_slots,
    load_vector,
    network_of_block,
    rows_of_block,
    store_rows,
    store_slots,
)
from .weights import once_more, times_itself, times_transpose, weight_tile

# The rows of a block's sums (sums_per_block(L), WIDTH): from SUM_B_HID on the biases of the L layers, then those of
# w_out and b_out, as they lie in theta.
SUM_B_IN = tl.constexpr(0)
SUM_TAU = tl.constexpr(1)
SUM_DTAU = tl.constexpr(2)
SUM_B_HID = tl.constexpr(3)


def sums_per_block(depth: int) -> int:
    return 3 + depth + 2


_SUM_W_OUT = tl.constexpr(4)
_SUM_B_OUT = tl.constexpr(5)
_SUMS = tl.constexpr(sums_per_block(1))

RUNTIME = (
    "rows blocks first_network parameters w_out_at tau_at tau_network tau_per_row networks grouped gated has_tau "
    "has_dtau has_u_bar has_dt_bar has_residual_bar out_tanh want_z want_tau want_dtau want_gates"
).split()


@triton.jit
def folded_cotangents(row, u_bar, dt_bar, residual_bar, has_u_bar, has_dt_bar, has_residual_bar, SUM: tl.constexpr):
    """ū, t̄ + r̄ and r̄: the residual's cotangent reaches ∂_t u by itself and ∇u by r̄ ∇u."""
    r_bar = load_row_scalars(residual_bar, row, has_residual_bar, 1, SUM)
    t_bar = load_row_scalars(dt_bar, row, has_dt_bar, 1, SUM) + r_bar
    return load_row_scalars(u_bar, row, has_u_bar, 1, SUM), t_bar, r_bar


@triton.jit
def store_sum(sums, which, first, x, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Σ over the block's rows of x (rows, BLOCK)."""
    tl.store(sums + which * WIDTH + first + tl.arange(0, BLOCK), tl.sum(x, 0))


@triton.jit(do_not_specialize=RUNTIME)
def backward_rows(
    theta,  # (K, parameters)
    w_in,  # packed, as in forward_rows
    w_in_transposed,
    w_hid,
    w_hid_transposed,
    tau,  # as in forward_rows
    dtau,
    order,
    block_network,
    gates,
    u_bar,  # the cotangents, (B,) each
    dt_bar,
    residual_bar,
    a_kept,  # (slots, WIDTH) each
    c_kept,
    v_kept,
    value_kept,  # (slots,)
    d_z,  # (B, dim)
    d_tau,  # (slots, WIDTH), where each row has its own
    d_dtau,
    d_gates,  # (B, K)
    grad_cotangent,  # (slots, DIM): ḡ with the residual's share in it
    s,  # the factors, (slots, WIDTH) each
    g_a,
    h,
    d_v,
    d_p,
    d_q,
    d_a,  # (slots, WIDTH): what reaches a past s, until it is added
    sums,  # (all blocks, sums_per_block, WIDTH)
    rows,
    blocks,
    dim,
    width,
    first_network,
    parameters,
    w_out_at,
    tau_at,
    tau_network,
    tau_per_row,
    networks,
    grouped,
    gated,
    has_tau,
    has_dtau,
    has_u_bar,
    has_dt_bar,
    has_residual_bar,
    out_tanh,
    want_z,
    want_tau,
    want_dtau,
    want_gates,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_UNITS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    READ_ONCE: tl.constexpr,
    VALUE_ONLY: tl.constexpr,
    PRECISION: tl.constexpr,
    OPERAND: tl.constexpr,
    SUM: tl.constexpr,
    STAGES: tl.constexpr,
):
    """One block of rows; grid (all blocks,). With gates d_z is (networks, B, dim)."""
    block = tl.program_id(0)
    network = network_of_block(block, block_network, blocks, grouped, gated)
    row = rows_of_block(block % blocks, order, rows, grouped, BLOCK_ROWS)
    slot = block.to(tl.int64) * BLOCK_ROWS
    weights = theta + (first_network + network) * parameters
    in_k = w_in + network * (WIDTH * DIM)
    in_transposed_k = w_in_transposed + network * (WIDTH * DIM)
    hid_k = w_hid + network * (WIDTH * WIDTH)
    hid_transposed_k = w_hid_transposed + network * (WIDTH * WIDTH)
    at_tau = tau_at + network * tau_network
    block_sums = sums + block.to(tl.int64) * (_SUMS * WIDTH)

    bar_u, bar_t, _ = folded_cotangents(row, u_bar, dt_bar, residual_bar, has_u_bar, has_dt_bar, has_residual_bar, SUM)
    value = tl.load(value_kept + slot + tl.arange(0, BLOCK_ROWS)).to(SUM)
    slope = tl.where(out_tanh != 0, 1.0 - value * value, 1.0)
    gate = load_row_scalars(gates + network, row, gated, networks, SUM)
    gate = tl.where(gated != 0, gate, 1.0)
    gated_slope = gate * slope

    d_ga = ()
    for _ in tl.static_range(CHUNKS):
        d_ga = d_ga + (tl.zeros((BLOCK_ROWS, CHUNK), SUM),)
    if not VALUE_ONLY:
        for d in tl.range(0, DIM, BLOCK_DIM, num_stages=STAGES):
            g_bar = load_slots(grad_cotangent, slot, DIM, d, BLOCK_ROWS, BLOCK_DIM, OPERAND)
            next_d_ga = ()
            for j in tl.static_range(CHUNKS):
                w = times_transpose(in_k, j * CHUNK, d, DIM, CHUNK, BLOCK_DIM)
                next_d_ga = next_d_ga + (product(g_bar, w, d_ga[j], PRECISION),)
            d_ga = next_d_ga

    d_slope = tl.zeros((BLOCK_ROWS,), SUM)
    d_v_tiles = ()
    d_s = ()
    for j in tl.static_range(CHUNKS):
        d_s = d_s + (tl.zeros((BLOCK_ROWS, CHUNK), SUM),)
        a = load_slots(a_kept, slot, WIDTH, j * CHUNK, BLOCK_ROWS, CHUNK, SUM)
        s_j = a + load_conditioning(
            tau, slot, at_tau, tau_per_row, WIDTH, j * CHUNK, width, has_tau, BLOCK_ROWS, CHUNK, SUM
        )
        store_slots(s, slot, WIDTH, j * CHUNK, s_j, BLOCK_ROWS, CHUNK)
        if not VALUE_ONLY:
            v = load_slots(v_kept, slot, WIDTH, j * CHUNK, BLOCK_ROWS, CHUNK, SUM)
            a1 = 1.0 - a * a
            rate = load_conditioning(
                dtau, slot, at_tau, tau_per_row, WIDTH, j * CHUNK, width, has_dtau, BLOCK_ROWS, CHUNK, SUM
            )
            d_gs = d_ga[j] * a1 + bar_t[:, None] * rate
            d_slope += tl.sum(d_gs * v, 1)
            g_s = gated_slope[:, None] * v
            store_slots(g_a, slot, WIDTH, j * CHUNK, g_s * a1, BLOCK_ROWS, CHUNK)
            store_slots(d_a, slot, WIDTH, j * CHUNK, -2.0 * a * d_ga[j] * g_s, BLOCK_ROWS, CHUNK)
            d_v_j = (gated_slope[:, None] * d_gs).to(OPERAND)
            store_slots(d_v, slot, WIDTH, j * CHUNK, d_v_j, BLOCK_ROWS, CHUNK)
            d_v_tiles = d_v_tiles + (d_v_j,)
            if want_dtau != 0:
                d_rate = bar_t[:, None] * g_s
                if tau_per_row != 0:
                    store_slots(d_dtau, slot, WIDTH, j * CHUNK, d_rate, BLOCK_ROWS, CHUNK)
                else:
                    store_sum(block_sums, SUM_DTAU, j * CHUNK, d_rate, WIDTH, CHUNK)

    d_out = gate * (bar_u + tl.where(out_tanh != 0, -2.0 * value * d_slope, 0.0)) * slope
    tl.store(block_sums + _SUM_B_OUT * WIDTH, tl.sum(d_out, 0))
    if want_gates != 0:
        tl.store(
            d_gates + row * networks + network,
            (bar_u * value + slope * d_slope).to(d_gates.dtype.element_ty),
            mask=row >= 0,
        )

    for n in tl.range(0, WIDTH, BLOCK_UNITS, num_stages=STAGES):
        c = load_slots(c_kept, slot, WIDTH, n, BLOCK_ROWS, BLOCK_UNITS, SUM)
        w_out = load_vector(weights + w_out_at, n, width, BLOCK_UNITS, SUM)
        c1 = 1.0 - c * c
        d_w_out = d_out[:, None] * c
        d_c = d_out[:, None] * w_out
        hidden = ()
        for j in tl.static_range(CHUNKS):
            hidden = hidden + (weight_tile(hid_k, n, j * CHUNK, WIDTH, BLOCK_UNITS, CHUNK),)
        if not VALUE_ONLY:
            d_h = tl.zeros((BLOCK_ROWS, BLOCK_UNITS), SUM)
            for j in tl.static_range(CHUNKS):
                d_h = product(d_v_tiles[j], tl.trans(hidden[j]), d_h, PRECISION)
            d_w_out += d_h * c1
            d_c += -2.0 * c * d_h * w_out
            store_slots(h, slot, WIDTH, n, w_out * c1, BLOCK_ROWS, BLOCK_UNITS)
        d_p_n = d_c * c1
        store_sum(block_sums, _SUM_W_OUT, n, d_w_out, WIDTH, BLOCK_UNITS)
        store_sum(block_sums, SUM_B_HID, n, d_p_n, WIDTH, BLOCK_UNITS)
        d_p_n = d_p_n.to(OPERAND)
        store_slots(d_p, slot, WIDTH, n, d_p_n, BLOCK_ROWS, BLOCK_UNITS)
        next_d_s = ()
        for j in tl.static_range(CHUNKS):
            w = once_more(
                hidden[j],
                hid_k,
                hid_transposed_k,
                n,
                j * CHUNK,
                WIDTH,
                BLOCK_UNITS,
                CHUNK,
                TRANSPOSED,
                READ_ONCE,
            )
            next_d_s = next_d_s + (product(d_p_n, w, d_s[j], PRECISION),)
        d_s = next_d_s

    if not VALUE_ONLY:
        tl.debug_barrier()  # d_a is read back in another layout than it was written in
    d_q_tiles = ()
    for j in tl.static_range(CHUNKS):
        d_a_j = d_s[j]
        if want_tau != 0:
            if tau_per_row != 0:
                store_slots(d_tau, slot, WIDTH, j * CHUNK, d_a_j, BLOCK_ROWS, CHUNK)
            else:
                store_sum(block_sums, SUM_TAU, j * CHUNK, d_a_j, WIDTH, CHUNK)
        if not VALUE_ONLY:
            d_a_j += load_slots(d_a, slot, WIDTH, j * CHUNK, BLOCK_ROWS, CHUNK, SUM)
        a = load_slots(a_kept, slot, WIDTH, j * CHUNK, BLOCK_ROWS, CHUNK, SUM)
        d_q_j = d_a_j * (1.0 - a * a)
        store_sum(block_sums, SUM_B_IN, j * CHUNK, d_q_j, WIDTH, CHUNK)
        d_q_j = d_q_j.to(OPERAND)
        store_slots(d_q, slot, WIDTH, j * CHUNK, d_q_j, BLOCK_ROWS, CHUNK)
        d_q_tiles = d_q_tiles + (d_q_j,)
    if want_z != 0:
        d_z_k = d_z + tl.where(gated != 0, network * rows * dim, 0)
        for d in tl.range(0, DIM, BLOCK_DIM, num_stages=STAGES):
            g = tl.zeros((BLOCK_ROWS, BLOCK_DIM), SUM)
            for j in tl.static_range(CHUNKS):
                w = times_itself(in_k, in_transposed_k, j * CHUNK, d, DIM, WIDTH, CHUNK, BLOCK_DIM, TRANSPOSED)
                g = product(d_q_tiles[j], w, g, PRECISION)
            store_rows(d_z_k, row, dim, d, dim, g, 1, BLOCK_DIM)
