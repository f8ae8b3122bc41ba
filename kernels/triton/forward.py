r"""The fused forward of one hidden layer: a block of rows through both sweeps in one pass over the weights.

Because the output's slope φ' is a factor of everything that flows backwards, the sweep back needs u only at its end:

.. math::
    v = W_{hid}^T (w_{out} \odot (1 - c^2)), \qquad \nabla u = \varphi' \, W_{in}^T (v \odot (1 - a^2))

So a block of output units of W_hid serves both of its products while it is at hand: it gives c, and what this c adds
to v. Only s, v and (where registers allow) a stay close, as CHUNKS tiles of CHUNK columns each.
"""

from __future__ import annotations

import triton
import triton.language as tl

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
from .weights import once_more, times_itself, times_transpose, weight_tile

RUNTIME = (
    "rows blocks first_network parameters b_in_at b_hid_at w_out_at b_out_at tau_at tau_network tau_per_row "
    "networks grouped gated keep has_tau has_dtau has_drive out_tanh"
).split()


@triton.jit(do_not_specialize=RUNTIME)
def forward_rows(
    z,  # (B, dim), pitch z_pitch
    theta,  # (K, parameters)
    w_in,  # packed: (networks, WIDTH, DIM), (networks, WIDTH, WIDTH), and their transposes
    w_in_transposed,
    w_hid,
    w_hid_transposed,
    tau,  # (slots, WIDTH) where each row has its own, else vectors
    dtau,
    order,  # grouped: the row of each slot
    block_network,  # grouped: the network of each block, −1 where it has no rows
    drive,  # (B,)
    u,  # outputs: (B,), (B,), (B, dim), (B,)
    dt,
    grad,
    residual,
    a_kept,  # (slots, WIDTH) each
    c_kept,
    v_kept,
    value_kept,  # (slots,)
    rows,
    blocks,
    dim,
    width,
    z_pitch,
    first_network,
    parameters,
    b_in_at,  # where in a row of theta
    b_hid_at,
    w_out_at,
    b_out_at,
    tau_at,  # where the first network's conditioning begins, the next one's distance, and whether each row has its own
    tau_network,
    tau_per_row,
    grouped,
    gated,
    keep,
    has_tau,
    has_dtau,
    has_drive,
    out_tanh,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_UNITS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    A_IN_REGISTERS: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    READ_ONCE: tl.constexpr,
    VALUE_ONLY: tl.constexpr,
    PRECISION: tl.constexpr,
    OPERAND: tl.constexpr,
    SUM: tl.constexpr,
    STAGES: tl.constexpr,
):
    """One block of rows; grid (all blocks,). With gates u, dt and grad are (networks, B …) and the residual waits."""
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
    first_out = tl.where(gated != 0, network * rows, 0)

    a = ()
    for _ in tl.static_range(CHUNKS):
        a = a + (tl.zeros((BLOCK_ROWS, CHUNK), SUM),)
    for d in tl.range(0, DIM, BLOCK_DIM, num_stages=STAGES):
        x = load_rows(z, row, z_pitch, d, dim, 1, BLOCK_DIM, OPERAND)
        next_a = ()
        for j in tl.static_range(CHUNKS):
            w = times_transpose(in_k, j * CHUNK, d, DIM, CHUNK, BLOCK_DIM)
            next_a = next_a + (product(x, w, a[j], PRECISION),)
        a = next_a
    s = ()
    kept_a = ()
    v = ()
    for j in tl.static_range(CHUNKS):
        a_j = tanh(a[j] + load_vector(weights + b_in_at, j * CHUNK, width, CHUNK, SUM), PRECISION)
        if not A_IN_REGISTERS:
            store_slots(a_kept, slot, WIDTH, j * CHUNK, a_j, BLOCK_ROWS, CHUNK)
        else:
            if keep != 0:
                store_slots(a_kept, slot, WIDTH, j * CHUNK, a_j, BLOCK_ROWS, CHUNK)
            kept_a = kept_a + (a_j,)
        s_j = a_j + load_conditioning(
            tau, slot, at_tau, tau_per_row, WIDTH, j * CHUNK, width, has_tau, BLOCK_ROWS, CHUNK, SUM
        )
        s = s + (s_j.to(OPERAND),)
        v = v + (tl.zeros((BLOCK_ROWS, CHUNK), SUM),)

    out = tl.zeros((BLOCK_ROWS,), SUM)
    for n in tl.range(0, WIDTH, BLOCK_UNITS, num_stages=STAGES):
        p = tl.zeros((BLOCK_ROWS, BLOCK_UNITS), SUM)
        hidden = ()
        for j in tl.static_range(CHUNKS):
            hidden = hidden + (weight_tile(hid_k, n, j * CHUNK, WIDTH, BLOCK_UNITS, CHUNK),)
            p = product(s[j], tl.trans(hidden[j]), p, PRECISION)
        c = tanh(p + load_vector(weights + b_hid_at, n, width, BLOCK_UNITS, SUM), PRECISION)
        w_out = load_vector(weights + w_out_at, n, width, BLOCK_UNITS, SUM)
        out += tl.sum(c * w_out, 1)
        if keep != 0:
            store_slots(c_kept, slot, WIDTH, n, c, BLOCK_ROWS, BLOCK_UNITS)
        if not VALUE_ONLY:
            h = (w_out * (1.0 - c * c)).to(OPERAND)
            next_v = ()
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
                next_v = next_v + (product(h, w, v[j], PRECISION),)
            v = next_v

    value, slope = activation(out + tl.load(weights + b_out_at).to(SUM), out_tanh, PRECISION)
    valid = row >= 0
    tl.store(u + first_out + row, value.to(u.dtype.element_ty), mask=valid)
    if keep != 0:
        tl.store(value_kept + slot + tl.arange(0, BLOCK_ROWS), value)
    if not VALUE_ONLY:
        if not A_IN_REGISTERS:
            tl.debug_barrier()  # a is read back in another layout than it was written in
        rate = tl.zeros((BLOCK_ROWS,), SUM)
        g_a = ()
        for j in tl.static_range(CHUNKS):
            if A_IN_REGISTERS:
                a_j = kept_a[j]
            else:
                a_j = load_slots(a_kept, slot, WIDTH, j * CHUNK, BLOCK_ROWS, CHUNK, SUM)
            if keep != 0:
                store_slots(v_kept, slot, WIDTH, j * CHUNK, v[j], BLOCK_ROWS, CHUNK)
            g_s = slope[:, None] * v[j]
            d_tau = load_conditioning(
                dtau, slot, at_tau, tau_per_row, WIDTH, j * CHUNK, width, has_dtau, BLOCK_ROWS, CHUNK, SUM
            )
            rate += tl.sum(g_s * d_tau, 1)
            g_a = g_a + ((g_s * (1.0 - a_j * a_j)).to(OPERAND),)
        norm = tl.zeros((BLOCK_ROWS,), SUM)
        for d in tl.range(0, DIM, BLOCK_DIM, num_stages=STAGES):
            g = tl.zeros((BLOCK_ROWS, BLOCK_DIM), SUM)
            for j in tl.static_range(CHUNKS):
                w = times_itself(in_k, in_transposed_k, j * CHUNK, d, DIM, WIDTH, CHUNK, BLOCK_DIM, TRANSPOSED)
                g = product(g_a[j], w, g, PRECISION)
            store_rows(grad + first_out * dim, row, dim, d, dim, g, 1, BLOCK_DIM)
            norm += tl.sum(g * g, 1)
        tl.store(dt + first_out + row, rate.to(dt.dtype.element_ty), mask=valid)
        driven = rate + 0.5 * norm + load_row_scalars(drive, row, has_drive, 1, SUM)
        tl.store(residual + row, driven.to(residual.dtype.element_ty), mask=valid & (has_drive != 0))
