"""What the GPU backends share: the engines' interface, the operators that reach them, paths over single moments."""

from ffrl_fast.gpu.field import engines, evaluate
from ffrl_fast.gpu.precision import use_precision

__all__ = ["engines", "evaluate", "use_precision"]
