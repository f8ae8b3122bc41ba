"""A module of PTX text, and its launches."""

from __future__ import annotations

import ctypes
import json
import struct
from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch

from ptx.launch import Launch, Race, Traffic
from ptx.library import Fault, Request, library, taken

Array: TypeAlias = "np.ndarray[Any, Any] | torch.Tensor"
Argument: TypeAlias = "Array | int | float | bytes | None"

# Where the interpreter maps buffers: program.hpp.
_FIRST_BUFFER, _WINDOW_BITS = 8, 36

FORMATS = {"u8": "B", "s8": "b", "b8": "B", "u16": "H", "s16": "h", "b16": "H", "u32": "I", "s32": "i", "b32": "I"}
FORMATS |= {"u64": "Q", "s64": "q", "b64": "Q", "f16": "e", "f32": "f", "f64": "d"}


def fresh(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A tensor whose bytes are all 0xff, NaN as a float: what a kernel leaves unwritten is seen."""
    out = torch.empty(shape, dtype=dtype)
    out.reshape(-1).view(torch.uint8).fill_(0xFF)
    return out


def _bytes_of(array: Array) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The bytes of a contiguous array, without a copy."""
    if isinstance(array, torch.Tensor):
        if array.device.type != "cpu" or not array.is_contiguous():
            raise ValueError(f"args: expected contiguous CPU tensors, found {tuple(array.shape)} {array.stride()}")
        return array.detach().reshape(-1).view(torch.uint8).numpy()
    if not array.flags.c_contiguous:
        raise ValueError(f"args: expected contiguous arrays, found strides {array.strides} of {array.shape}")
    return array.reshape(-1).view(np.uint8)


def _packed(value: int | float | bytes | None, kind: str, size: int) -> bytes:
    """A scalar as it lies in parameter space."""
    if isinstance(value, bytes):
        return value
    format = FORMATS[kind]
    if format in "efd":
        return struct.pack(format, float(value or 0))
    return (int(value or 0) & ((1 << (8 * size)) - 1)).to_bytes(size, "little")


def _three(sizes: Sequence[int]) -> Any:
    return (ctypes.c_uint32 * 3)(*sizes, *[1] * (3 - len(sizes)))


class Module:
    """PTX text, read; raises Fault where it cannot be. What is not known raises when it is reached."""

    def __init__(self, text: str) -> None:
        message = ctypes.c_void_p()
        self._handle = library().ptx_parse(text.encode(), ctypes.byref(message))
        described = taken(message)
        if not self._handle:
            raise Fault(described)
        self._entries: dict[str, dict[str, Any]] = {entry["name"]: entry for entry in json.loads(described)}

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            library().ptx_release(self._handle)

    @property
    def entries(self) -> tuple[str, ...]:
        """The names of the kernels."""
        return tuple(self._entries)

    def refusals(self, entry: str) -> tuple[str, ...]:
        """Why instructions of a kernel are not known: each raises where it is reached."""
        return tuple(why for _, _, why in self._entries[self.entry(entry)]["instructions"] if why)

    def entry(self, name: str) -> str:
        """The one kernel whose name contains ``name``."""
        if name in self._entries:
            return name
        found = [entry for entry in self._entries if name in entry]
        if len(found) != 1:
            raise ValueError(f"entry: expected a part of one of {self.entries}, found {name!r}")
        return found[0]

    def launch(
        self,
        entry: str,
        grid: Sequence[int],
        block: Sequence[int],
        args: Sequence[Argument],
        *,
        shared: int = 0,
        seed: int = 0,
        limit: int = 200_000_000,
        memory: Sequence[Array] = (),
    ) -> Launch:
        """Runs a kernel: blocks in a random order, warps by random priorities, both drawn from ``seed``.

        Parameters
        ----------
        entry: the kernel's name, or a part of it that no other kernel's has
        grid, block: one to three sizes
        args: numpy arrays and torch tensors, contiguous, are copied in and out, also when the launch fails; numbers go
            by the parameter's type; bytes are a structure; None is the null pointer. The same array given twice is one
            buffer.
        memory: arrays that pointers within structures point into, by their own addresses. Those are translated: every
            eight aligned bytes of a structure whose value lies in one of the arrays. Their traffic is reported by place
            after the arguments.
        shared: bytes of dynamic shared memory
        limit: warp instructions a block, after which it counts as never ending

        Raises
        ------
        Fault: an access out of bounds or misaligned, a deadlock, an instruction that is not known, …
        """
        name = self.entry(entry)
        parameters = self._entries[name]["parameters"]
        if len(args) != len(parameters):
            raise ValueError(f"args: expected {len(parameters)} for {name}, found {len(args)}")

        buffers: dict[int, int] = {}  # the address of an array → its number
        where: list[int] = []  # the arguments that are arrays, by number
        held: list[np.ndarray[Any, np.dtype[np.uint8]]] = []
        space = bytearray(max((p["offset"] + p["bytes"] for p in parameters), default=0))
        of_parameter = [-1] * len(args)
        for i, (value, parameter) in enumerate(zip(args, parameters, strict=True)):
            if isinstance(value, np.ndarray | torch.Tensor):
                data = _bytes_of(value)
                if parameter["bytes"] != 8:
                    raise ValueError(f"args[{i}]: expected a {parameter['type']}, found an array")
                key = data.ctypes.data if data.size else -1 - i
                if key not in buffers:
                    buffers[key] = len(held)
                    where.append(i)
                    held.append(data.copy())
                of_parameter[i] = buffers[key]
            else:
                raw = _packed(value, parameter["type"], parameter["bytes"])
                if len(raw) != parameter["bytes"]:
                    raise ValueError(f"args[{i}]: expected {parameter['bytes']} bytes, found {len(raw)}")
                space[parameter["offset"] : parameter["offset"] + len(raw)] = raw

        for place, array in enumerate(memory):
            data = _bytes_of(array)
            if data.size and data.ctypes.data not in buffers:
                buffers[data.ctypes.data] = len(held)
                where.append(len(args) + place)
                held.append(data.copy())
        ends = {start: start + held[number].size for start, number in buffers.items() if start >= 0}
        for parameter, value in zip(parameters, args, strict=True):
            if not isinstance(value, bytes):
                continue
            for at in range(parameter["offset"], parameter["offset"] + parameter["bytes"] - 7, 8):
                pointer = int.from_bytes(space[at : at + 8], "little")
                for start, end in ends.items():
                    if start <= pointer < end:
                        inside = ((_FIRST_BUFFER + buffers[start]) << _WINDOW_BITS) + pointer - start
                        space[at : at + 8] = inside.to_bytes(8, "little")

        request = Request(
            entry=name.encode(),
            grid=_three(grid),
            block=_three(block),
            shared=shared,
            seed=seed,
            limit=limit,
            buffer_count=len(held),
            buffers=(ctypes.c_void_p * len(held))(*(data.ctypes.data for data in held)),
            buffer_bytes=(ctypes.c_uint64 * len(held))(*(data.size for data in held)),
            parameters=bytes(space),
            parameter_bytes=len(space),
            parameter_buffers=(ctypes.c_int32 * len(args))(*of_parameter),
        )
        message = ctypes.c_void_p()
        answer = library().ptx_launch(self._handle, ctypes.byref(request), ctypes.byref(message))
        if not answer:
            raise Fault(taken(message))
        report = json.loads(taken(answer))
        arrays = [*args, *memory]
        for i, data in zip(where, held, strict=True):
            _bytes_of(arrays[i])[:] = data  # type: ignore[arg-type]
        if report["error"]:
            raise Fault(report["error"])
        return self._read(name, report, where)

    def _read(self, name: str, report: dict[str, Any], where: list[int]) -> Launch:
        instructions = self._entries[name]["instructions"]
        executed: Counter[str] = Counter()
        for (opcode, _, _), times in zip(instructions, report["executed"], strict=True):
            if times:
                executed[opcode] += times
        races = tuple(
            Race(kind, instructions[pc][1], instructions[other][1], times) for kind, pc, other, times in report["races"]
        )
        traffic = {i: Traffic(*counts) for i, counts in zip(where, report["traffic"], strict=True)}
        return Launch(races, executed, traffic)
