"""Makes the benchmark folder importable; last on the path, so that an installed ffrl_fast is not shadowed."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))
