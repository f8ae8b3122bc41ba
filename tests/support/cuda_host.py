"""CUDA sources compiled by g++ under the emulation of tests/cuda_host/emulation, and what a test asks of them.

>>> library = Emulation(build([ROOT / "kernels/cuda/field.cu"]))
>>> with library.watch(seed=3, z=z, grad=grad) as traffic:
...     library.call("ffrl_field", z, grad, rows, dim)
>>> assert traffic["z"].loaded == z.nbytes
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).parents[2]
HEADER = ROOT / "tests/cuda_host/emulation/cuda_host.hpp"
CACHE = ROOT / "build/cuda_host"
#: What a mutated build copies, so that includes between these folders find the mutated files.
FOLDERS = ("kernels", "csrc", "tests/cuda_host")
SUFFIXES = {".cu", ".cuh", ".cpp", ".hpp", ".h"}

Sanitizer = Literal["address", "thread"]

_FLAGS = ["-std=c++20", "-fPIC", "-g1", "-fno-gnu-unique", "-ffp-contract=off", "-pthread", "-DFFRL_CUDA_HOST"]
_WARNINGS = ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
_SANITIZE: dict[Sanitizer | None, list[str]] = {
    None: ["-O2"],
    # An address that is wrong by an alignment or an index is the fault looked for; -O1 keeps the accesses apart.
    "address": ["-O1", "-fsanitize=address,undefined"],
    "thread": ["-O1", "-fsanitize=thread"],
}


class EmulationError(RuntimeError):
    """A launch that did what CUDA forbids; the message says which block and thread, and what."""


@dataclass(frozen=True)
class Mutation:
    """Replaces one occurrence of ``old`` in a file of the repository, to show that a test finds the fault."""

    file: Path
    old: str
    new: str
    occurrence: int = 0

    def __str__(self) -> str:
        return f"{self.file.name}: {self.old.strip()!r} #{self.occurrence} -> {self.new.strip()!r}"

    def apply(self, source: str) -> str:
        starts = [found.start() for found in re.finditer(re.escape(self.old), source)]
        if self.occurrence >= len(starts):
            raise ValueError(f"{self}: expected {self.occurrence + 1} occurrences, found {len(starts)}")
        at = starts[self.occurrence]
        return source[:at] + self.new + source[at + len(self.old) :]


def mutants(file: Path, old: str, new: str = "") -> list[Mutation]:
    """One mutation for each occurrence of ``old`` in the file."""
    count = file.read_text().count(old)
    if not count:
        raise ValueError(f"{file}: expected {old!r}, found none")
    return [Mutation(file, old, new, occurrence) for occurrence in range(count)]


def _run(command: Sequence[str | Path]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:24]


def _mutated_tree(folder: Path, mutations: Sequence[Mutation]) -> Path:
    for name in FOLDERS:
        for path in (ROOT / name).rglob("*"):
            if path.suffix in SUFFIXES:
                copy = folder / path.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
    for mutation in mutations:
        path = folder / mutation.file.relative_to(ROOT)
        path.write_text(mutation.apply(path.read_text()))
    return folder


def _precompiled_header(flags: list[str]) -> Path:
    """The emulation's header as the compiler reads it fastest; reading it is a third of the time of a small source."""
    parts = [path.read_bytes() for path in sorted(HEADER.parent.glob("*.hpp"))]
    versions = CACHE / f"header-{_digest(repr(flags).encode())}"
    header = versions / _digest(*parts) / HEADER.name
    precompiled = header.with_name(f"{header.name}.gch")
    if not precompiled.exists():
        header.parent.mkdir(parents=True, exist_ok=True)
        header.write_text(f'#include "{HEADER}"\n')
        unfinished = header.with_name(f"{os.getpid()}.unfinished")
        _run(["g++", *flags, "-x", "c++-header", header, "-o", unfinished])
        # 50 MB each. Who still compiles with an old one reads the header itself.
        for old in versions.glob(f"*/{precompiled.name}"):
            old.unlink(missing_ok=True)
        unfinished.replace(precompiled)
    return header


def _compile(source: Path, flags: list[str], mutations: Sequence[Mutation], tree: Path) -> Path:
    """The object of one source; compiled only if nothing that it includes has changed since the last time."""

    def moved(text: str) -> str:
        # Not of all that lies under the root: the environment that has pybind11 may.
        for name in FOLDERS:
            text = text.replace(f"{ROOT / name}", f"{tree / name}")
        return text

    header = _precompiled_header(flags)
    key = _digest(str(source).encode(), str(header).encode(), repr(mutations).encode())
    built, record = CACHE / f"{key}.o", CACHE / f"{key}.json"
    if built.exists() and record.exists():
        known = json.loads(record.read_text())
        if all(Path(p).exists() and _digest(Path(p).read_bytes()) == digest for p, digest in known.items()):
            return built
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        made, depends = Path(folder, "made.o"), Path(folder, "made.d")
        command = ["g++", *map(moved, flags), "-x", "c++", "-include", str(header), "-MMD", "-MF", str(depends)]
        _run([*command, "-c", moved(str(source)), "-o", made])
        names = depends.read_text().replace("\\\n", " ").split(":", 1)[1].split()
        files = {str(Path(str(Path(name).resolve()).replace(str(tree), str(ROOT)))) for name in names}
        made.replace(built)
        record.write_text(json.dumps({name: _digest(Path(name).read_bytes()) for name in sorted(files)}))
    return built


def build(
    sources: Sequence[Path],
    *,
    flags: Sequence[str] = (),
    link_flags: Sequence[str] = (),
    sanitize: Sanitizer | None = None,
    mutations: Sequence[Mutation] = (),
    name: str = "emulated.so",
) -> Path:
    """Compiles the sources (.cu, or .cpp of launchers and bindings) into one shared library and returns its path.

    ``flags``: more options of the compiler, such as ``-I`` and ``-D``. ``sanitize``: ``"address"`` (with undefined
    behaviour) or ``"thread"``; load such a library only in ``run_sanitized``. ``name``: of the file, where an import
    asks for one. Objects are kept in build/cuda_host.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    options = [*_FLAGS, *_WARNINGS, *_SANITIZE[sanitize], *flags]
    with contextlib.ExitStack() as stack:
        # Of several processes that want the same, one compiles and the others wait.
        asked = _digest(repr((options, list(map(str, sources)), list(mutations))).encode())
        fcntl.flock(stack.enter_context((CACHE / f"{asked}.lock").open("w")), fcntl.LOCK_EX)
        tree = ROOT
        if mutations:
            tree = _mutated_tree(Path(stack.enter_context(tempfile.TemporaryDirectory())).resolve(), mutations)
        _precompiled_header(options)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(lambda source: _compile(source.resolve(), options, mutations, tree), sources))
    key = _digest(repr((options, list(link_flags))).encode(), *(path.read_bytes() for path in objects))
    library = CACHE / key / name
    if not library.exists():
        library.parent.mkdir(exist_ok=True)
        unfinished = library.with_suffix(f".{os.getpid()}")
        _run(["g++", "-shared", "-pthread", *_SANITIZE[sanitize], *objects, *link_flags, "-o", unfinished])
        unfinished.replace(library)
    return library


@dataclass(frozen=True)
class Traffic:
    """Bytes of one buffer that kernels moved: all, how many different ones, and the most of one block."""

    loaded: int
    loaded_distinct: int
    loaded_by_block: int
    stored: int
    stored_distinct: int
    stored_by_block: int


def _memory(array: Any) -> tuple[int, int]:
    """Address and bytes of a numpy array or a torch tensor."""
    if hasattr(array, "data_ptr"):
        return array.data_ptr(), array.numel() * array.element_size()
    return array.ctypes.data, array.nbytes


def _argument(value: Any) -> Any:
    if hasattr(value, "data_ptr") or hasattr(value, "ctypes"):
        return ctypes.c_void_p(_memory(value)[0])
    if isinstance(value, float):
        return ctypes.c_float(value)
    if isinstance(value, int):
        return ctypes.c_int64(value)
    return value


class Emulation:
    """A library made by ``build``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._library = ctypes.CDLL(str(path))
        self._library.ffrl_cuda_host_failure.restype = ctypes.c_char_p
        self._library.ffrl_cuda_host_failure.argtypes = []
        self._library.ffrl_cuda_host_register.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_char_p]
        self._library.ffrl_cuda_host_reset.argtypes = [
            ctypes.c_uint64, ctypes.c_uint, ctypes.c_int, ctypes.c_uint64, ctypes.c_int, ctypes.c_int
        ]  # fmt: skip
        self.reset()

    def reset(
        self,
        seed: int = 0,
        *,
        reshuffle_one_in: int = 512,
        copies_land_late: bool = True,
        max_shared_bytes: int = 227 * 1024,
        multiprocessors: int = 132,
        compute_capability: int = 90,
    ) -> None:
        """Forgets failures and registered buffers, and sets what the next launches go by.

        The seed decides the order of blocks, the priorities of warps (new ones in one of ``reshuffle_one_in`` steps)
        and the order of lanes. cp.async lands at its wait, or at once without ``copies_land_late``.
        """
        self._library.ffrl_cuda_host_reset(
            seed, reshuffle_one_in, copies_land_late, max_shared_bytes, multiprocessors, compute_capability
        )

    def register(self, **buffers: Any) -> None:
        """Counts the traffic of these arrays from now on; an access outside all of them ends the launch."""
        for name, array in buffers.items():
            address, size = _memory(array)
            self._library.ffrl_cuda_host_register(address, size, name.encode())

    @property
    def failure(self) -> str:
        """What went wrong first since the last reset, or the empty string."""
        message: bytes = self._library.ffrl_cuda_host_failure()
        return message.decode()

    def traffic(self, name: str) -> Traffic:
        """The traffic of a registered buffer."""
        numbers = (ctypes.c_uint64 * 6)()
        if self._library.ffrl_cuda_host_traffic(name.encode(), numbers):
            raise KeyError(name)
        return Traffic(*numbers)

    def check(self) -> None:
        """Raises EmulationError if something went wrong since the last reset."""
        if self.failure:
            raise EmulationError(self.failure)

    @contextlib.contextmanager
    def watch(self, seed: int = 0, **buffers: Any) -> Iterator[dict[str, Traffic]]:
        """Resets, registers the buffers, and after the block checks for failure and fills in their traffic."""
        self.reset(seed)
        self.register(**buffers)
        counted: dict[str, Traffic] = {}
        yield counted
        self.check()
        counted.update({name: self.traffic(name) for name in buffers})

    def call(self, function: str, *arguments: Any) -> int:
        """Calls a C function that returns a cudaError_t, and raises EmulationError if a launch in it failed.

        Arrays and tensors are passed by address, integers as 64 bits, Python floats as C floats, ctypes as they are.
        """
        code: int = getattr(self._library, function)(*map(_argument, arguments))
        self.check()
        return code


@dataclass(frozen=True)
class SanitizedRun:
    """What came of ``run_sanitized``."""

    reports: list[str]
    output: str
    code: int


_RUN = """import importlib.util, json, os, sys
path, function, arguments = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
sys.path.insert(0, os.path.dirname(path))
spec = importlib.util.spec_from_file_location("sanitized", path)
module = importlib.util.module_from_spec(spec)
sys.modules["sanitized"] = module
spec.loader.exec_module(module)
getattr(module, function)(**arguments)
"""
_REPORT = re.compile(r"(?:WARNING: ThreadSanitizer|ERROR: AddressSanitizer|runtime error): .*")


def run_sanitized(sanitize: Sanitizer, file: Path, function: str, /, **arguments: Any) -> SanitizedRun:
    """Runs a function of a Python file, arguments by JSON, in a process where the sanitizer's library is loaded first.

    The function loads a library built with the same ``sanitize``; what the sanitizer saw is in ``reports``.
    """
    runtime = _run(["g++", f"-print-file-name=lib{sanitize[0]}san.so"]).strip()
    environment = {
        **os.environ,
        # The sanitizer looks for functions of the second when it is loaded, and Python does not bring it.
        "LD_PRELOAD": f"{runtime}:libstdc++.so.6",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tests/support"), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONMALLOC": "malloc",
        "OMP_NUM_THREADS": "1",
        # Python leaks on purpose; only the kernels are looked at.
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "TSAN_OPTIONS": "halt_on_error=0:exitcode=0:ignore_noninstrumented_modules=1",
    }
    command = [sys.executable, "-P", "-c", _RUN, str(file), function, json.dumps(arguments)]
    # ThreadSanitizer needs addresses that are not too random.
    if sanitize == "thread" and shutil.which("setarch"):
        command = ["setarch", "--addr-no-randomize", *command]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    return SanitizedRun(_REPORT.findall(output), output, done.returncode)
