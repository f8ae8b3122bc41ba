"""The training layer: Flow Factorized Representation Learning (Song, Keller, Sebe, Welling; NeurIPS 2023).

Built on `ffrl_fast`, which computes the potentials, their gradients and the flows. Here are the data, the model,
the objective, the trainer, the evaluation and the command line (`ffrl --help`).
"""

from ffrl.errors import UserError

__all__ = ["UserError"]
