"""The IDX file format of MNIST: big-endian magic 0x0000 08 rank, one uint32 per dimension, then bytes.

Format: http://yann.lecun.com/exdb/mnist/ ("The IDX file format").
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ffrl.errors import UserError

_UNSIGNED_BYTE = 0x08


def read_idx(path: Path, rank: int) -> Tensor:
    """Read one IDX file of unsigned bytes, plain or gzip (told by its first two bytes, not by its name).

    Returns a uint8 tensor with `rank` dimensions. UserError names the file, what was expected and what was found.
    """
    raw = _read_bytes(path)
    header_size = 4 + 4 * rank
    if len(raw) < header_size:
        raise UserError(f"{path}: expected an IDX header of {header_size} bytes, found {len(raw)} bytes")
    zero, kind, found_rank = struct.unpack(">HBB", raw[:4])
    if zero != 0 or kind != _UNSIGNED_BYTE or found_rank != rank:
        expected = f"{(_UNSIGNED_BYTE << 8) | rank:#010x} (unsigned bytes, {rank} dimensions)"
        raise UserError(f"{path}: expected IDX magic {expected}, found 0x{raw[:4].hex()}")
    shape = struct.unpack(f">{rank}I", raw[4:header_size])
    expected_size = math.prod(shape)
    if len(raw) - header_size != expected_size:
        raise UserError(
            f"{path}: expected {expected_size} bytes of data for shape {shape}, found {len(raw) - header_size}"
        )
    # A copy, because torch wants memory that it may write to.
    return torch.from_numpy(np.frombuffer(raw, dtype=np.uint8, offset=header_size).reshape(shape).copy())


def _read_bytes(path: Path) -> bytes:
    raw = path.read_bytes()
    if raw[:2] != b"\x1f\x8b":
        return raw
    try:
        return gzip.decompress(raw)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: expected a whole gzip file, found a damaged one ({error})") from None
