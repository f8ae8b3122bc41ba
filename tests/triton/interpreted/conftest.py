"""The interpreter without its slowest check: that no sum of int32 overflows, which at these sizes none can."""

from __future__ import annotations

import dataclasses

import pytest

pytest.importorskip("triton")
from triton.runtime.interpreter import interpreter_builder

interpreter_builder.options = dataclasses.replace(interpreter_builder.options, sanitize_overflow=False)
