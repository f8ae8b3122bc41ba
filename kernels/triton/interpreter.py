"""What Triton's interpreter (TRITON_INTERPRET=1, kernels run by numpy on CPU tensors) needs to run these kernels."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.runtime import interpreter

#: Whether kernels are interpreted; fixed when Triton is imported.
ACTIVE: bool = triton.knobs.runtime.interpret


def _read_scalars_by_item() -> None:
    """A loop's run-time bound is read by int() of a one-element array, which numpy 2.4 refuses."""
    patch = interpreter._patch_lang_tensor

    def patched(tensor: type, scope: object) -> None:
        patch(tensor, scope)
        if tensor is tl.tensor:
            scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())  # type: ignore[attr-defined]

    interpreter._patch_lang_tensor = patched


if ACTIVE:
    _read_scalars_by_item()
