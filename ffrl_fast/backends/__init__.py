"""Which code computes an operator: the plain reference or a native engine, and why.

A backend answers ``can_run(request)`` with a reason. The automatic choice takes the first in order that can and does
not ask to be named; a choice
by name (argument, :func:`use_backend` or, at import, the environment variable ``FFRL_FAST_BACKEND``) that cannot run
raises with its reason. Nothing is copied to another device or cast to another dtype to make a backend fit.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from ffrl_fast.backends.gpu import cuda_backend, triton_backend
from ffrl_fast.backends.interface import OPERATORS, Backend, Call, HJGradients, Motion, Request, Verdict
from ffrl_fast.backends.native_cpu import CpuBackend
from ffrl_fast.backends.plain import ReferenceBackend

__all__ = [
    "Backend",
    "Call",
    "HJGradients",
    "Motion",
    "Request",
    "Verdict",
    "backends",
    "choose",
    "chosen_by_name",
    "explain",
    "use_backend",
]

_IN_ORDER: tuple[Backend, ...] = (CpuBackend(), cuda_backend(), triton_backend(), ReferenceBackend())
_BY_NAME = {backend.name: backend for backend in _IN_ORDER}
# Plain globals, not context variables: torch.compile guards on the former and cannot trace the latter.
_forced: str | None = None
# Read once: a call takes a microsecond longer to ask the environment.
_variable: str | None = os.environ.get("FFRL_FAST_BACKEND") or None


def backends() -> tuple[str, ...]:
    """The names of all backends, in the order in which the automatic choice tries them."""
    return tuple(_BY_NAME)


def _named(name: str, source: str) -> Backend:
    if not isinstance(name, str):
        raise TypeError(f"{source}: expected a name, found {type(name).__name__}")
    if name not in _BY_NAME:
        raise ValueError(f"{source}: expected one of {', '.join(map(repr, _BY_NAME))}, found {name!r}")
    return _BY_NAME[name]


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Within the block every operator of the process runs on the backend ``name``, or raises with the reason.

    Raises:
        ValueError, TypeError: for what is not a name that :func:`backends` lists.
    """
    global _forced
    before, _forced = _forced, _named(name, "use_backend").name
    try:
        yield
    finally:
        _forced = before


def chosen_by_name(backend: str | None) -> bool:
    """Whether the caller, :func:`use_backend` or the environment names a backend."""
    return backend is not None or _forced is not None or _variable is not None


def choose(request: Request, backend: str | None = None) -> Backend:
    """The backend for ``request``: the one asked for by name, else the first that can run.

    Raises:
        ValueError, TypeError: for an unknown name, or what is none.
        RuntimeError: when the backend asked for by name cannot run the request.
    """
    if chosen_by_name(backend):
        for name, source in ((backend, "backend"), (_forced, "use_backend"), (_variable, "FFRL_FAST_BACKEND")):
            if name is not None:
                candidate = _named(name, source)
                verdict = candidate.can_run(request)
                if not verdict:
                    raise RuntimeError(f"{source}={name!r} cannot run {request.operator}: {verdict.reason}")
                return candidate
    for candidate in _IN_ORDER:
        if candidate.automatic and candidate.can_run(request):
            return candidate
    raise RuntimeError(f"no backend can run {request}")  # pragma: no cover - the reference runs all that passes checks


def explain(request: Request | None = None, **changes: object) -> str:
    """A table of every backend's answer to ``request``, the one that a call would run on marked with ``→``.

    ``changes`` override fields of the default request (operator="potential_field", device="cpu", dtype=torch.float32,
    tangent=False), as in ``print(ffrl_fast.explain(dtype=torch.bfloat16))``. Where :func:`use_backend` or
    ``FFRL_FAST_BACKEND`` chooses by name, a last line says so, or what a call would raise.

    Raises:
        ValueError: for an unknown operator.
    """
    request = (request or Request()).replace(**changes)
    if request.operator not in OPERATORS:
        raise ValueError(f"operator: expected one of {', '.join(map(repr, OPERATORS))}, found {request.operator!r}")
    chosen, note = None, None
    try:
        chosen = choose(request)
    except (ValueError, RuntimeError) as error:
        note = f"a call raises {type(error).__name__}: {error}"
    else:
        if _forced is not None:
            note = f"chosen by name: use_backend={_forced!r}"
        elif _variable is not None:
            note = f"chosen by name: FFRL_FAST_BACKEND={_variable!r}"
    lines = [f"{request}"]
    for backend in _IN_ORDER:
        verdict = backend.can_run(request)
        mark = "→" if backend is chosen else " "
        lines.append(f"{mark} {backend.name:<10} {'yes' if verdict else 'no':<4} {verdict.reason}")
    return "\n".join(lines if note is None else [*lines, note])
