"""Weight matrices as the row kernels read them: padded with zeros, rounded once, in both orientations.

Padding frees the products' loops from masks, and a pitch of whole 16-byte lines keeps every copy vectorised. The
transposes are what the products with Wᵀ read where the matrix unit wants the inner index contiguous.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .elementary import round_to_tf32

TILE = tl.constexpr(32)


@triton.jit(do_not_specialize=["first_network", "parameters", "w_in_at", "w_hid_at", "dim", "width", "depth"])
def pack(
    theta,
    w_in,
    w_in_transposed,
    w_hid,
    w_hid_transposed,
    first_network,
    parameters,
    w_in_at,
    w_hid_at,
    dim,
    width,
    depth,
    dim_pitch,
    width_pitch,
    PRECISION: tl.constexpr,
):
    """One tile of one matrix; grid (tiles of the largest matrix, 1 + depth, networks).

    ``theta`` (K, P); ``w_in`` (networks, Hp, Dp), ``w_hid`` (networks, depth, Hp, Hp) and their transposes.
    """
    matrix = tl.program_id(1)
    network = tl.program_id(2).to(tl.int64)
    is_in = matrix == 0
    columns = tl.where(is_in, dim, width)
    pitch = tl.where(is_in, dim_pitch, width_pitch)
    across = tl.cdiv(pitch, TILE)
    row = tl.program_id(0) // across * TILE + tl.arange(0, TILE)[:, None]
    column = tl.program_id(0) % across * TILE + tl.arange(0, TILE)[None, :]

    at = (first_network + network) * parameters + tl.where(is_in, w_in_at, w_hid_at + (matrix - 1) * width * width)
    x = tl.load(theta + at + row * columns + column, mask=(row < width) & (column < columns), other=0.0)
    if PRECISION == "tf32":
        x = round_to_tf32(x)
    x = x.to(w_in.dtype.element_ty)

    inside = (row < width_pitch) & (column < pitch)
    straight = row * pitch + column
    transposed = column * width_pitch + row
    if is_in:
        at = network * width_pitch * dim_pitch
        tl.store(w_in + at + straight, x, mask=inside)
        tl.store(w_in_transposed + at + transposed, x, mask=inside)
    else:
        at = (network * depth + matrix - 1) * width_pitch * width_pitch
        tl.store(w_hid + at + straight, x, mask=inside)
        tl.store(w_hid_transposed + at + transposed, x, mask=inside)
