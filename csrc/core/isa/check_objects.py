"""``check_objects.py NM ARCHIVE``, which the build runs: the code compiled for each instruction set stays its own.

A weak function with a common name (an inline function, an instance of a template) is kept once by the linker, from
whichever file comes first, for all processors: those without that instruction set would stop at it. So each object of
an instruction set has weak functions only in its own namespace.
"""

from __future__ import annotations

import re
import subprocess
import sys

INSTRUCTION_SETS = ("baseline", "avx2", "avx512", "neon")
# The reference to the exception-handling routine: data, and the same in all.
SHARED_DATA = "DW.ref.__gxx_personality_v0"


def misplaced(symbols: str) -> list[str]:
    """Of what ``nm -C`` says of an archive: "object: function", of each weak one outside its namespace.

    Raises:
        ValueError: where no object of an instruction set is in the archive.
    """
    found, isa, any_isa = [], None, False
    for line in symbols.splitlines():
        member = re.fullmatch(r"(\w+)\.cpp\.(?:o|obj):", line)
        if member:
            isa = member[1] if member[1] in INSTRUCTION_SETS else None
            any_isa |= isa is not None
        weak = re.fullmatch(r"\S+ [WV] (.*)", line)
        if isa and weak and f"ffrl::{isa}::" not in weak[1] and weak[1] != SHARED_DATA:
            found.append(f"{isa}: {weak[1]}")
    if not any_isa:
        raise ValueError("no object of an instruction set in the archive")
    return found


def main() -> int:
    nm, archive = sys.argv[1:]
    found = misplaced(subprocess.check_output([nm, "-C", archive], text=True))
    for line in found:
        print(f"weak function outside the namespace of its instruction set, in {line}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
