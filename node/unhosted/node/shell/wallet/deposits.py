"""Deposits that wait for the owner's signature, one file each: they outlive the command that asked.

What comes back from a wallet is only ever compared with these: the node signs nothing that it did not ask.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

from unhosted.node.core.errors import Refused
from unhosted.node.core.funding import TEXT_CHARS_MAX, DepositRequest, from_json, to_json
from unhosted.node.shell.wallet.times import utc_text

WAITING_MAX = 32
"""Nobody signs more at a time; beyond it a script asks in a loop."""

_ID = re.compile(r"[0-9a-f]{16}")


class DepositFiles:
    """The folder of waiting deposits. Every method blocks for a file or two."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, request: DepositRequest, *, now_unix_s: int) -> Path:
        """Write it, over what was there under its id; expired ones go. Raises: Refused if too many wait."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        waiting = self.waiting(now_unix_s=now_unix_s)
        if len(waiting) >= WAITING_MAX and all(one.deposit_id != request.deposit_id for one in waiting):
            raise Refused(
                "overloaded",
                f"{len(waiting)} deposits wait for a signature, which is the limit: sign one, or remove "
                f"files in {self._folder}",
            )
        path = self._path(request.deposit_id)
        write_private(path, to_json(request, valid_until=utc_text(request.valid_before_unix_s)))
        return path

    def waiting(self, *, now_unix_s: int) -> list[DepositRequest]:
        """Those that can still be signed and sent, oldest first; expired ones are removed."""
        found: list[tuple[float, DepositRequest]] = []
        for path in sorted(self._folder.glob("*.json"))[: 2 * WAITING_MAX] if self._folder.exists() else ():
            request = self._read(path)
            if request is None:
                continue
            if request.valid_before_unix_s <= now_unix_s:
                path.unlink(missing_ok=True)
            else:
                found.append((path.stat().st_mtime, request))
        return [request for _, request in sorted(found, key=lambda one: one[0])]

    def load(self, deposit_id: str) -> DepositRequest:
        """Raises: Refused if there is none of that id."""
        path = self._path(deposit_id) if _ID.fullmatch(deposit_id) else None
        request = None if path is None or not path.exists() else self._read(path)
        if request is None:
            raise Refused(
                "invalid_request",
                f"no deposit {deposit_id[:40]!r} waits for a signature here: it was sent or has expired, or "
                "another node asked for it; ask again with `unhosted wallet fund AMOUNT`",
                field="id",
            )
        return request

    def remove(self, deposit_id: str) -> None:
        self._path(deposit_id).unlink(missing_ok=True)

    def settle(self, request: DepositRequest, *, seen_unix_s: int) -> None:
        """Keep for the history a deposit that somebody else sent: no journal of ours has it."""
        made = to_json(request, valid_until=utc_text(request.valid_before_unix_s))
        folder = self._folder / "sent"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(folder / f"{request.deposit_id}.json", made | {"seen_unix_s": seen_unix_s})
        self.remove(request.deposit_id)

    def settled(self) -> list[tuple[int, DepositRequest]]:
        """Those that others sent, and when that was seen."""
        folder = self._folder / "sent"
        found = []
        for path in sorted(folder.glob("*.json")) if folder.exists() else ():
            request = self._read(path)
            if request is not None:
                found.append((int(json.loads(read_bounded(path)).get("seen_unix_s", 0)), request))
        return found

    def _path(self, deposit_id: str) -> Path:
        return self._folder / f"{deposit_id}.json"

    def _read(self, path: Path) -> DepositRequest | None:
        """None for what is not ours, or damaged: it can be asked for again."""
        try:
            request = from_json(json.loads(read_bounded(path)))
        except (ValueError, RecursionError, AttributeError):
            return None
        return request if request.deposit_id == path.stem else None


def read_json(path: Path) -> dict[str, Any]:
    """A file that somebody brought. Raises: Refused if it is missing, too large or no JSON object."""
    try:
        told = json.loads(read_bounded(path))
    except OSError as error:
        raise Refused("invalid_request", f"{path} cannot be read: {error.strerror}; check its name") from None
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise Refused("invalid_request", f"{path} is no JSON object of at most {TEXT_CHARS_MAX} characters")
    return told


def read_bounded(path: Path) -> str:
    """Raises: OSError; ValueError if it is too long or no text."""
    with path.open("rb") as file:
        raw = file.read(TEXT_CHARS_MAX + 1)
    if len(raw) > TEXT_CHARS_MAX:
        raise ValueError(f"{path} is longer than {TEXT_CHARS_MAX} bytes")
    return raw.decode()


def write_private(path: Path, value: object) -> None:
    """Whole or not at all; not for others to read, since it says who pays how much."""
    draft = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
