"""The processes of a training run and the device that each computes on: one alone, or those that torchrun started."""

import atexit
import os
from typing import Literal, get_args

import torch
from lightning_fabric import Fabric

from ffrl.errors import UserError

Device = Literal["cpu", "cuda"]
Precision = Literal["32-true", "bf16-mixed"]


def connect(device: str = "cpu", precision: str = "32-true") -> Fabric:
    """Fabric for this process. Under ``torchrun --nproc-per-node N`` it is one of N that share every batch.

    precision: "bf16-mixed" computes the autoencoder's products in bfloat16; the flow stays in float32.
    UserError: an unknown device or precision, or no GPU where one was asked for.
    """
    if device not in get_args(Device):
        raise UserError(f"--device: expected {' or '.join(get_args(Device))}, found {device!r}")
    if precision not in get_args(Precision):
        raise UserError(f"--precision: expected {' or '.join(get_args(Precision))}, found {precision!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: expected a GPU that PyTorch can use, found none")
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    here = int(os.environ.get("LOCAL_WORLD_SIZE", str(processes)))
    fabric = Fabric(
        accelerator=device,
        devices=here,
        num_nodes=processes // here,
        strategy="ddp" if processes > 1 else "auto",
        precision=precision,  # type: ignore[arg-type]
    )
    fabric.launch()
    if torch.distributed.is_initialized():
        atexit.register(_disconnect)
    return fabric


def _disconnect() -> None:
    """Ends gloo's threads, as Fabric ends NCCL's.

    One that gives up a tensor while the interpreter ends would abort the process.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
