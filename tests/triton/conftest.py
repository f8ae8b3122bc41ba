"""The Triton engine's kernels are run by Triton's interpreter, which is chosen when Triton is imported, while
torch.compile elsewhere in the suite needs the compiler. So ``interpreted/`` is collected only with TRITON_INTERPRET=1,
in the process that ``test_in_the_interpreter.py`` starts."""

from __future__ import annotations

import os

collect_ignore = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["interpreted"]
