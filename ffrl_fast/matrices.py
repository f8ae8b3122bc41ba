"""Determinants, inverses and eigenvalues of batches of matrices (B, D, D), each matrix by itself.

Torch's factorisations have three limits that callers of the operators must not meet: no 16-bit dtypes, an error for the
whole batch where one matrix is not finite, and on the CPU a batched LU that may not return.
"""

from __future__ import annotations

import torch
from torch import Tensor


def widened(x: Tensor) -> Tensor:
    """x, in float32 where its dtype has fewer bits."""
    return x.float() if x.itemsize < 4 else x


def _one_at_a_time(matrices: Tensor) -> bool:
    """Whether a batch must not be handed to torch's LU as a whole.

    On the CPU several threads would then enter MKL's threaded LU at once, which errs or never returns
    (github.com/pytorch/pytorch/issues/141358).
    """
    wrapped = torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(matrices)
    return matrices.device.type == "cpu" and len(matrices) > 1 and not wrapped


def log_abs_det(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """log|det| and the determinant's sign of each of ``matrices`` (B, D, D), (B,) each; −inf and 0 where it is 0."""
    if not _one_at_a_time(matrices):
        sign, value = torch.linalg.slogdet(matrices)
        return value, sign
    signs, values = zip(*(torch.linalg.slogdet(m) for m in matrices), strict=True)
    return torch.stack(values), torch.stack(signs)


def inverse(matrices: Tensor) -> Tensor:
    """Of each of ``matrices`` (B, D, D); not finite where there is none."""
    if not _one_at_a_time(matrices):
        return torch.linalg.inv_ex(matrices).inverse
    return torch.stack([torch.linalg.inv_ex(m).inverse for m in matrices])


def _with_identities(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """The matrices, the identity in place of each that is not finite; and which are finite, (B,)."""
    finite = matrices.isfinite().flatten(-2).all(-1)
    identity = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    return torch.where(finite[..., None, None], matrices, identity), finite


def eigenvalues(matrices: Tensor) -> Tensor:
    """Of each of the symmetric ``matrices`` (B, D, D), ascending (B, D); NaN of one that is not finite."""
    safe, finite = _with_identities(matrices)
    return torch.where(finite[..., None], torch.linalg.eigvalsh(safe), torch.nan)


def eigenvectors(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`eigenvalues` (B, D) and the orthonormal vectors that belong to them, the columns of (B, D, D)."""
    safe, finite = _with_identities(matrices)
    values, vectors = torch.linalg.eigh(safe)
    return torch.where(finite[..., None], values, torch.nan), torch.where(finite[..., None, None], vectors, torch.nan)
