"""The month that a cap counts in: UTC, the same formula as `monthOf` in the contract, from whole seconds."""

from typing import NewType

Month = NewType("Month", int)
"""Months since January of the year 0: year * 12 + month - 1."""

SECONDS_PER_DAY = 86_400
UNIX_S_MAX = (1 << 40) - 1
"""The contract's uint40 of time: the year 36812."""


def month_of(unix_s: int) -> Month:
    """The UTC month of an instant.

    Raises: ValueError outside 0 to UNIX_S_MAX.
    Source: days-to-civil for the proleptic Gregorian calendar, years counted from 1 March so that a leap
    day is a year's last; 719,468 is the number of days from 0000-03-01 to 1970-01-01.
    """
    if not 0 <= unix_s <= UNIX_S_MAX:
        raise ValueError(f"time {unix_s} s is outside 0 to {UNIX_S_MAX}")
    era, day_of_era = divmod(unix_s // SECONDS_PER_DAY + 719_468, 146_097)
    leap_days = day_of_era // 1_460 - day_of_era // 36_524 + day_of_era // 146_096
    year_of_era = (day_of_era - leap_days) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    from_march = (5 * day_of_year + 2) // 153
    month = from_march + 3 if from_march < 10 else from_march - 9
    year = year_of_era + era * 400 + (1 if month <= 2 else 0)
    return Month(year * 12 + month - 1)


def month_text(month: Month) -> str:
    """`2026-11`, as people and tax offices write it."""
    return f"{month // 12:04d}-{month % 12 + 1:02d}"
