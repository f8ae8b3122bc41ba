"""The interpreter's shared library: compiled once for each state of its sources, then loaded."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).parent / "interpreter"
# Arithmetic must round as written, and integers wrap as PTX's do.
OPTIONS = ["-std=c++20", "-O2", "-march=native", "-fwrapv", "-ffp-contract=off", "-fPIC", "-Wall", "-Wextra", "-Werror"]


class Fault(RuntimeError):
    """A launch or a parse that could not go on; the message has the instruction."""


class Request(ctypes.Structure):
    """`Request` of interpreter/launch.cpp."""

    _fields_ = [
        ("entry", ctypes.c_char_p),
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("shared", ctypes.c_uint32),
        ("seed", ctypes.c_uint64),
        ("limit", ctypes.c_uint64),
        ("buffer_count", ctypes.c_int32),
        ("buffers", ctypes.POINTER(ctypes.c_void_p)),
        ("buffer_bytes", ctypes.POINTER(ctypes.c_uint64)),
        ("parameters", ctypes.c_char_p),
        ("parameter_bytes", ctypes.c_uint64),
        ("parameter_buffers", ctypes.POINTER(ctypes.c_int32)),
    ]


def _processor() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith("flags")), "")


def _build(target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        objects = []
        for source in sorted(SOURCES.glob("*.cpp")):
            objects.append(str(Path(folder) / f"{source.stem}.o"))
            subprocess.run(["g++", *OPTIONS, "-c", str(source), "-o", objects[-1]], check=True)
        made = Path(folder) / "libptx.so"
        subprocess.run(["g++", "-shared", *objects, "-o", str(made)], check=True)
        os.replace(made, target)


@cache
def library() -> ctypes.CDLL:
    """The library, from the cache where its sources have not changed."""
    digest = hashlib.sha256(" ".join([*OPTIONS, _processor()]).encode())
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.read_bytes())
    folder = Path(tempfile.gettempdir()) / f"ptx-interpreter-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    target = folder / f"{digest.hexdigest()[:16]}.so"
    if not target.exists():
        _build(target)
    loaded = ctypes.CDLL(str(target))
    loaded.ptx_parse.restype = ctypes.c_void_p
    loaded.ptx_parse.argtypes = [ctypes.c_char_p, ctypes.POINTER(ctypes.c_void_p)]
    loaded.ptx_launch.restype = ctypes.c_void_p
    loaded.ptx_launch.argtypes = [ctypes.c_void_p, ctypes.POINTER(Request), ctypes.POINTER(ctypes.c_void_p)]
    loaded.ptx_free.argtypes = loaded.ptx_release.argtypes = [ctypes.c_void_p]
    return loaded


def taken(text: Any) -> str:
    """The text at an address that the library gave, which is freed."""
    try:
        return ctypes.string_at(text).decode()
    finally:
        library().ptx_free(text)
