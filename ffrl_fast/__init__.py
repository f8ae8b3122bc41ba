"""Fused operators for training neural potentials: u, ∂_t u, ∇u, Hamilton–Jacobi residuals and their gradients."""

import torch as _torch  # noqa: F401  - first, so that the native module binds to torch's OpenMP library

from ffrl_fast.backends import HJGradients, backends, explain, use_backend
from ffrl_fast.bank import PotentialBank
from ffrl_fast.curvature import LogDet, hessian, laplacian, log_det
from ffrl_fast.gpu import use_precision
from ffrl_fast.native import release_memory
from ffrl_fast.operators import (
    FlowPath,
    HJResidual,
    PotentialField,
    hj_loss,
    hj_residual,
    integrate,
    potential_field,
    value_and_grad,
)

__version__ = "0.1.0"

__all__ = [
    "FlowPath",
    "HJGradients",
    "HJResidual",
    "LogDet",
    "PotentialBank",
    "PotentialField",
    "backends",
    "explain",
    "hessian",
    "hj_loss",
    "hj_residual",
    "integrate",
    "laplacian",
    "log_det",
    "potential_field",
    "release_memory",
    "use_backend",
    "use_precision",
    "value_and_grad",
]
