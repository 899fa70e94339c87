"""What a check of `unhosted doctor` found."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the report. next: the command or step that helps, where there is one."""

    check: str
    status: Status
    text: str
    next: str | None = None
