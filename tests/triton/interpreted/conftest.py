"""These tests run where TRITON_INTERPRET=1 was set before Triton was imported: tests/triton/test_interpreted.py does."""

from __future__ import annotations

import os

if os.environ.get("TRITON_INTERPRET") != "1":
    collect_ignore_glob = ["*"]
