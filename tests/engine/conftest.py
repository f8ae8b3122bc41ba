from __future__ import annotations

from collections.abc import Iterator

import pytest

from ffrl_fast import calls
from ffrl_fast.native import nodes


@pytest.fixture(scope="module", params=["compiled", "python"] if nodes.compiled is not None else ["python"])
def each_kind_of_nodes(request: pytest.FixtureRequest) -> Iterator[None]:
    """A module that uses it is run with autograd's nodes in C++, where there are any, and in Python."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "python":
            patch.setattr(nodes, "compiled", None)
        calls._seen.clear()
        yield
    calls._seen.clear()
