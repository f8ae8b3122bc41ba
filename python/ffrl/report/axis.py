"""The axes of a chart: linear, or logarithmic where the values span decades."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ffrl.report.numerals import axis_label, power_of_ten

LARGEST = 1e100
"""Values beyond are left out of a chart: differences of larger ones overflow."""
SMALLEST = 1e-100
"""Values nearer to zero count as zero: powers of ten below the smallest floats do not exist."""
# Of a linear axis over 25-fold values, a 25th part holds all that is near the lowest.
_FOLD_FOR_LOGARITHM = 25
_MARGIN = 0.04


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`, which are powers of ten on a logarithmic axis: there they are the exponents."""

    low: float
    high: float
    logarithmic: bool

    @classmethod
    def over(cls, values: Sequence[float], may_be_logarithmic: bool = True, margin: float = _MARGIN) -> "Axis":
        """The axis that shows these finite values (at least one), with a margin as a share of their range."""
        low, high = (0.0 if abs(value) < SMALLEST else value for value in (min(values), max(values)))
        logarithmic = may_be_logarithmic and low > 0 and high / _FOLD_FOR_LOGARITHM >= low
        if logarithmic:
            low, high = math.log10(low), math.log10(high)
        size = max(abs(low), abs(high))
        # Equal values, or equal up to roundings: a range about them in which they lie as a level line.
        spare = (high - low) * margin if high - low > 1e-9 * size else size * 0.1 or 1.0
        return cls(low - spare, high + spare, logarithmic)

    def position(self, value: float) -> float:
        """Where a value lies, 0 at `low` and 1 at `high`."""
        shown = math.log10(value) if self.logarithmic else value
        return (shown - self.low) / (self.high - self.low)

    def ticks(self, about: int) -> list[tuple[float, str]]:
        """Round values on the axis with their labels, roughly `about` of them."""
        return self._decades(about) if self.logarithmic else self._steps(about)

    def _steps(self, about: int) -> list[tuple[float, str]]:
        power = 10.0 ** math.floor(math.log10((self.high - self.low) / about))
        step = min(
            (power * factor for factor in (1, 2, 5, 10)),
            key=lambda step: abs(math.log((self.high - self.low) / step / about)),
        )
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [(n * step, axis_label(n * step, step)) for n in range(first, last + 1)]

    def _decades(self, about: int) -> list[tuple[float, str]]:
        first, last = math.ceil(self.low), math.floor(self.high)
        if last - first < 2:
            return [
                (value, axis_label(value, value))
                for power in range(math.floor(self.low), last + 1)
                for value in (float(f"{factor}e{power}") for factor in (1, 2, 5))
                if self.low <= math.log10(value) <= self.high
            ]
        every = max(1, round((last - first) / about))
        return [(10.0**n, power_of_ten(n)) for n in range(first, last + 1, every)]
