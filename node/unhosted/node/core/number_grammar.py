"""Decimal numbers between bounds, as GBNF expressions over their digits.

A grammar cannot compare numbers, but it can spell out which digit strings lie in a range: all lengths in
between whole, and the two ends digit by digit.
"""

DIGITS_MAX = 16
"""No bound is ever missing: without one a small model may write digits until the context is full."""

_LARGEST = 10**DIGITS_MAX - 1
_FRACTION = f'"." [0-9]{{1,{DIGITS_MAX}}}'


def integer_between(low: int | None, high: int | None) -> str | None:
    """An expression for the integers from low to high, both included; None if there are none."""
    low = -_LARGEST if low is None else max(low, -_LARGEST)
    high = _LARGEST if high is None else min(high, _LARGEST)
    choices: list[str] = []
    if low < 0:
        choices += [f'"-" ({natural})' for natural in _naturals(max(1, -high), -low)]
    choices += _naturals(max(low, 0), high)
    return " | ".join(choices) or None


def number_between(
    low: int | None, high: int | None, *, low_excluded: bool = False, high_excluded: bool = False
) -> str | None:
    """An expression for decimal fractions between whole bounds, without exponent; None if there are none."""
    choices: list[str] = []
    if low is None or low < 0:
        # The same number line, seen from the other side of zero.
        near, near_excluded = (0, False) if high is None or high > 0 else (-high, high_excluded)
        far = None if low is None else -low
        choices += [f'"-" ({c})' for c in _fractions(near, far, near_excluded, low_excluded)]
    if high is None or high >= 0:
        near, near_excluded = (0, False) if low is None or low < 0 else (low, low_excluded)
        choices += _fractions(near, high, near_excluded, high_excluded)
    return " | ".join(choices) or None


def _fractions(low: int, high: int | None, low_excluded: bool, high_excluded: bool) -> list[str]:
    """Non-negative decimal fractions from low to high."""
    top = _LARGEST if high is None else min(high, _LARGEST)
    if low > top or (low == top and (low_excluded or high_excluded)):
        return []
    choices = []
    below = top if high is None else top - 1
    if low_excluded:
        choices.append(f'"{low}." [0-9]{{0,{DIGITS_MAX - 1}}} [1-9]')
    choices += [f"({c}) ({_FRACTION})?" for c in _naturals(low + low_excluded, below)]
    if high is not None and not high_excluded:
        choices.append(f'"{top}" ("." "0"{{1,{DIGITS_MAX}}})?')
    return choices


def _naturals(low: int, high: int) -> list[str]:
    """Expressions, one per number of digits, for the naturals from low to high without leading zeros."""
    choices = []
    if low == 0 <= high:
        choices.append('"0"')
        low = 1
    for digits in range(len(str(low)), DIGITS_MAX + 1):
        first, last = max(low, 10 ** (digits - 1)), min(high, 10**digits - 1)
        if first <= last:
            choices.append(_digits_between(str(first), str(last)))
    return choices


def _digits_between(low: str, high: str) -> str:
    """The digit strings of one length from low to high."""
    rest = len(low) - 1
    if low[1:] == "0" * rest and high[1:] == "9" * rest:
        digit = f"[{low[0]}-{high[0]}]" if low[0] != high[0] else f'"{low[0]}"'
        return f"{digit} [0-9]{{{rest}}}" if rest else digit
    if low[0] == high[0]:
        return f'"{low[0]}" ({_digits_between(low[1:], high[1:])})'
    choices = [f'"{low[0]}" ({_digits_between(low[1:], "9" * rest)})']
    if int(low[0]) + 1 < int(high[0]):
        choices.append(_digits_between(f"{int(low[0]) + 1}{'0' * rest}", f"{int(high[0]) - 1}{'9' * rest}"))
    choices.append(f'"{high[0]}" ({_digits_between("0" * rest, high[1:])})')
    return " | ".join(choices)
