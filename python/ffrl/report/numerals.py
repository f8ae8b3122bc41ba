"""Numbers as a reader wants them: four digits that count, aligned in a column."""

import math
from collections.abc import Iterable
from typing import Any

DIGITS = 4
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def decimals_of_column(values: Iterable[float]) -> int | None:
    """How many decimals give the largest of these numbers DIGITS digits.

    None where no one number of decimals suits: some number would lose all but one of its digits, or is very large.
    """
    sizes = [abs(value) for value in values if value != 0 and math.isfinite(value)]
    if not sizes:
        return 0
    largest, smallest = max(sizes), min(sizes)
    if largest >= 1e7:
        return None
    decimals = min(max(DIGITS - 1 - math.floor(math.log10(largest)), 0), 6)
    return decimals if smallest >= 10.0 ** (1 - decimals) else None


def number(value: float, decimals: int | None = None) -> str:
    """As text: a whole number in full, others with `decimals`, or with DIGITS digits when None."""
    if isinstance(value, int):
        return _minus(f"{value:,}")
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    if decimals is not None:
        return _minus(f"{value:,.{decimals}f}")
    exponent = math.floor(math.log10(abs(value)))
    if -4 <= exponent < 7:
        return _minus(f"{value:,.{max(DIGITS - 1 - exponent, 0)}f}")
    mantissa, power = f"{value:.{DIGITS - 1}e}".split("e")
    return _minus(f"{mantissa} · {power_of_ten(int(power))}")


def in_words(value: Any) -> str:
    """A setting in a sentence: 8,000 or 1.5, and text as it is."""
    return number(value) if type(value) is int else f"{value:g}" if type(value) is float else str(value)


def axis_label(value: float, step: float) -> str:
    """A label of a linear axis whose ticks are `step` apart."""
    largest = max(abs(value), step)
    if largest >= 1e6 or largest < 1e-4:
        return "0" if abs(value) < step / 2 else _minus(f"{value:.3g}")
    return _minus(f"{value:,.{max(-math.floor(math.log10(step) + 1e-9), 0)}f}")


def power_of_ten(exponent: int) -> str:
    """10ⁿ."""
    return f"10{str(exponent).translate(_SUPERSCRIPTS)}"


def _minus(text: str) -> str:
    # A number that rounds to zero has no sign.
    return text.replace("-", "−") if text.strip("-0.,") else text.lstrip("-")
