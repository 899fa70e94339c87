"""Instants as people and tax offices read them: UTC, ISO 8601, to the second."""

from datetime import UTC, datetime


def utc_text(unix_s: int) -> str:
    """`2026-11-23T01:02:03Z`; the number itself where no calendar goes so far."""
    try:
        return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return f"{unix_s} s"
