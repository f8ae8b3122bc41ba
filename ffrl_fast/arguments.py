"""Checks of what callers pass, before any backend sees it.

Every error names the argument, what was expected and what was found. Only metadata is looked at, so that the checks
hold under ``torch.compile`` and ``vmap``; the one check that needs values, the range of an index tensor, is made by the
backend before it writes anything.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ffrl_fast.bank import PotentialBank


def _shape(x: Tensor) -> str:
    return f"({', '.join(map(str, x.shape))}{',' if x.dim() == 1 else ''})"


def _strided(name: str, x: Tensor) -> None:
    if x.layout is not torch.strided:
        raise TypeError(f"{name}: expected a strided tensor, found {x.layout}")


def _like(name: str, x: Tensor, of_bank: Tensor) -> None:
    """``x`` must share the bank's dtype and device, those of ``of_bank``: nothing is cast or copied in silence.

    Once the rows have been compared with the bank's theta, the rest is compared with the rows: a module's parameter
    takes half a microsecond to look up.
    """
    if x.dtype != of_bank.dtype:
        raise TypeError(f"{name}: expected dtype {of_bank.dtype} as the bank's, found {x.dtype}")
    _strided(name, x)
    if x.device != of_bank.device:
        raise ValueError(f"{name}: expected device {of_bank.device} as the bank's, found {x.device}")


def check_bank(name: str, bank: PotentialBank) -> PotentialBank:
    if not isinstance(bank, PotentialBank):
        raise TypeError(f"{name}: expected a PotentialBank, found {type(bank).__name__}")
    return bank


def check_rows(name: str, z: Tensor, bank: PotentialBank) -> Tensor:
    """z (B, D)."""
    if not isinstance(z, Tensor):
        raise TypeError(f"{name}: expected a tensor, found {type(z).__name__}")
    if z.dim() != 2 or z.shape[1] != bank.dim:
        raise ValueError(f"{name}: expected shape (B, {bank.dim}), found {_shape(z)}")
    _like(name, z, _theta("bank", bank))
    return z


def _theta(name: str, bank: PotentialBank) -> Tensor:
    """Its parameters, which ``functional_call`` or the caller may have replaced."""
    theta: Tensor = bank.theta
    if theta.shape != (bank.num_potentials, bank.shape.num_parameters):
        expected = f"({bank.num_potentials}, {bank.shape.num_parameters})"
        raise ValueError(f"{name}: expected parameters theta of shape {expected}, found {_shape(theta)}")
    return theta


def check_number(name: str, x: object, expected: str = "a number") -> float:
    """Python's numbers and those of other libraries; no tensor, whose gradient would be lost."""
    if isinstance(x, (int, float)) and not isinstance(x, bool):
        return x
    if isinstance(x, bool) or not isinstance(x, numbers.Real):
        raise TypeError(f"{name}: expected {expected}, found {type(x).__name__}")
    return float(x)


def _integer(x: object) -> int | None:
    """None where x is none."""
    return int(x) if isinstance(x, (int, numbers.Integral)) and not isinstance(x, bool) else None


def check_count(name: str, x: object) -> int:
    number = _integer(x)
    if number is None or number < 1:
        raise ValueError(f"{name}: expected an integer ≥ 1, found {x!r}")
    return number


def check_times(name: str, t: float | Tensor, z: Tensor) -> Tensor:
    """t as (1,), one time for all rows, or (B,)."""
    if isinstance(t, (int, float)) and not isinstance(t, bool):
        if torch.finfo(z.dtype).max < abs(t) != math.inf:
            raise ValueError(f"{name}: expected a number that {z.dtype} holds, found {t}")
        return torch.full((1,), float(t), dtype=z.dtype, device=z.device)
    if not isinstance(t, Tensor):
        return check_times(name, check_number(name, t, "a number or a tensor"), z)
    _like(name, t, z)
    rows = z.shape[0]
    if t.dim() == 0:
        return t.reshape(1)
    if t.dim() == 1 and t.shape[0] in (1, rows):
        return t
    raise ValueError(f"{name}: expected a number or shape (), (1,) or ({rows},), found {_shape(t)}")


def check_moments(name: str, times: object, of_bank: Tensor) -> Tensor:
    """The times of a path (T,)."""
    if not isinstance(times, Tensor):
        if isinstance(times, str) or not isinstance(times, Iterable):
            raise TypeError(f"{name}: expected a sequence of numbers or a (T,) tensor, found {type(times).__name__}")
        expected = "numbers or one (T,) tensor"
        times = _vector_like(of_bank, [float(check_number(name, t, expected)) for t in times])
    if times.dim() != 1:
        raise ValueError(f"{name}: expected shape (T,), found {_shape(times)}")
    _strided(name, times)
    if times.dtype != of_bank.dtype or times.device != of_bank.device:
        raise TypeError(
            f"{name}: expected {of_bank.dtype} on {of_bank.device} as the bank, found {times.dtype} on {times.device}"
        )
    return times


def _vector_like(like: Tensor, values: list[float]) -> Tensor:
    """The values (N,) in the dtype and on the device of ``like``."""
    if like.device.type == "cpu" or not values:
        return torch.tensor(values, dtype=like.dtype, device=like.device)
    # A copy from the host's memory waits for the device, and a CUDA graph cannot capture it; a fill can be captured.
    return torch.stack([torch.full((), x, dtype=like.dtype, device=like.device) for x in values])


def check_names(name: str, chosen: object, known: tuple[str, ...]) -> tuple[str, ...]:
    expected = f"names among {', '.join(map(repr, known))}"
    if isinstance(chosen, str) or not isinstance(chosen, Iterable):
        found = repr(chosen) if isinstance(chosen, str) else type(chosen).__name__
        raise TypeError(f"{name}: expected a sequence of {expected}, found {found}")
    names = tuple(chosen)
    for one in names:
        if not isinstance(one, str) or one not in known:
            raise ValueError(f"{name}: expected {expected}, found {one!r}")
    return names


@dataclass(slots=True)
class Selection:
    """Which potential moves a row: one for all (``potential`` ≥ 0), one each (``index``) or a mixture (``gates``)."""

    potential: int
    index: Tensor | None
    gates: Tensor | None

    def at_step(self, step: int) -> Selection:
        """The selection of one step of a path, whose gates may be (B, T, K)."""
        if self.gates is None or self.gates.dim() == 2:
            return self
        return Selection(self.potential, self.index, self.gates[:, step])


_ONLY_ONE = Selection(0, None, None)


def check_selection(
    index: int | Tensor | None, gates: Tensor | None, z: Tensor, bank: PotentialBank, gates_steps: int | None = None
) -> Selection:
    """``index``: an int or (B,) int64; ``gates``: (B, K), or (B, T, K) where ``gates_steps`` is T; one of the two."""
    k, rows = bank.num_potentials, z.shape[0]
    if index is not None and gates is not None:
        raise ValueError("index, gates: expected one of the two, found both")
    if gates is not None:
        if not isinstance(gates, Tensor):
            raise TypeError(f"gates: expected a tensor, found {type(gates).__name__}")
        allowed = [(rows, k)] if gates_steps is None else [(rows, k), (rows, gates_steps, k)]
        if tuple(gates.shape) not in allowed:
            raise ValueError(f"gates: expected shape {' or '.join(map(str, allowed))}, found {_shape(gates)}")
        _like("gates", gates, z)
        return Selection(-1, None, gates)
    if index is None:
        if k > 1:
            raise ValueError(f"index: the bank has {k} potentials; pass index (int or (B,) int64) or gates (B, {k})")
        return _ONLY_ONE
    if isinstance(index, Tensor):
        if index.dtype != torch.int64:
            raise TypeError(f"index: expected dtype torch.int64, found {index.dtype}")
        _strided("index", index)
        if tuple(index.shape) != (rows,):
            raise ValueError(f"index: expected an int or shape ({rows},), found {_shape(index)}")
        if index.device != z.device:
            raise ValueError(f"index: expected device {z.device} as the bank's, found {index.device}")
        return Selection(-1, index, None)
    if not isinstance(index, int) or isinstance(index, bool):
        whole = _integer(index)
        if whole is None:
            raise TypeError(f"index: expected an int or an int64 tensor, found {type(index).__name__}")
        index = whole
    if not 0 <= index < k:
        raise IndexError(f"index: expected 0 ≤ index < {k}, found {index}")
    return Selection(index, None, None)


def check_conditioning(
    found: object, bank: PotentialBank, z: Tensor, t: Tensor, potential: int
) -> tuple[Tensor | None, Tensor | None]:
    """τ and dτ/dt of a bank's own making, each (K, R, H) or None for 0; of one ``potential`` ≥ 0 that alone, (1, R, H).

    Where there are more potentials the one is taken; one row stands for all R.
    """
    name, moments = f"{type(bank).__name__}.conditioning", t.shape[0]
    if not isinstance(found, tuple) or len(found) != 2:
        raise TypeError(f"{name}: expected τ and dτ/dt, found {type(found).__name__}")
    if found[0] is None and found[1] is not None:
        raise ValueError(f"{name}: expected dτ/dt None where τ is, found a tensor")
    of_bank, width = bank.num_potentials, bank.shape.width
    checked: list[Tensor | None] = []
    for which, x in zip(("τ", "dτ/dt"), found, strict=True):
        if x is None:
            checked.append(None)
            continue
        if not isinstance(x, Tensor):
            raise TypeError(f"{name}: {which}: expected a tensor or None, found {type(x).__name__}")
        many = (of_bank,) if potential < 0 else (1, of_bank)
        if x.dim() != 3 or x.shape[0] not in many or (x.shape[1] != moments and x.shape[1] != 1) or x.shape[2] != width:
            raise ValueError(f"{name}: {which}: expected shape ({many[0]}, {moments}, {width}), found {_shape(x)}")
        _like(f"{name}: {which}", x, z)
        if potential >= 0 and x.shape[0] > 1:
            x = x[potential : potential + 1]
        checked.append(x if x.shape[1] == moments else x.expand(-1, moments, -1))
    return checked[0], checked[1]


def check_force(force: PotentialBank | None, bank: PotentialBank) -> PotentialBank | None:
    if force is None:
        return None
    check_bank("force", force)
    if (force.num_potentials, force.dim) != (bank.num_potentials, bank.dim):
        raise ValueError(
            f"force: expected num_potentials = {bank.num_potentials} and dim = {bank.dim} as the bank's, "
            f"found {force.num_potentials} and {force.dim}"
        )
    _like("force", _theta("force", force), bank.theta)
    return force


def check_weight(weight: Tensor | None, z: Tensor) -> Tensor | None:
    """A weight per row (B,)."""
    if weight is None:
        return None
    if not isinstance(weight, Tensor):
        raise TypeError(f"weight: expected a tensor, found {type(weight).__name__}")
    if weight.shape != z.shape[:1]:
        raise ValueError(f"weight: expected shape ({z.shape[0]},), found {_shape(weight)}")
    _like("weight", weight, z)
    return weight


def check_tangent(tangent: Tensor | None, z: Tensor) -> Tensor | None:
    """A direction for all rows (D,) or one per row (B, D)."""
    if tangent is None:
        return None
    if not isinstance(tangent, Tensor):
        raise TypeError(f"tangent: expected a tensor, found {type(tangent).__name__}")
    if tangent.shape not in (z.shape[1:], z.shape):
        rows, dim = z.shape
        raise ValueError(f"tangent: expected shape ({dim},) or ({rows}, {dim}), found {_shape(tangent)}")
    _like("tangent", tangent, z)
    return tangent
