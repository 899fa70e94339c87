"""Which chunks of a download are on the disk: a text file that only grows, next to the data.

The first line says what is being fetched; each further line is the number of a chunk whose bytes were
synced before the line was written. A line cut short by a crash does not parse and its chunk is fetched
again. So a kill at any moment costs the chunks in flight, nothing else.
"""

import json
import os
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from unhosted.node.shell.models.files import sync_data

CHUNKS_MAX = 1 << 20
LINE_DIGITS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the chunks belong to. validator: the server's ETag, if it gives a strong one."""

    url: str
    size_bytes: int
    chunk_bytes: int
    sha256: str | None
    validator: str | None

    @property
    def chunk_count(self) -> int:
        return -(-self.size_bytes // self.chunk_bytes)

    def span(self, chunk: int) -> tuple[int, int]:
        """First byte and end of a chunk."""
        start = chunk * self.chunk_bytes
        return start, min(start + self.chunk_bytes, self.size_bytes)

    def is_same_content(self, other: "Plan") -> bool:
        """Whether chunks of `other` can be used: by digest if there is one, else by address and ETag."""
        if self.size_bytes != other.size_bytes:
            return False
        if self.sha256 is not None or other.sha256 is not None:
            return self.sha256 == other.sha256
        return self.validator is not None and (self.url, self.validator) == (other.url, other.validator)


def load(path: Path) -> tuple[Plan, set[int]] | None:
    """The plan and the chunks that are done; None if there is no journal that can be used."""
    try:
        head, *lines = path.read_bytes().split(b"\n")
        record = json.loads(head)
        plan = Plan(**record)
        numbers = (plan.size_bytes, plan.chunk_bytes)
        if (
            not all(isinstance(number, int) and number > 0 for number in numbers)
            or plan.chunk_count > CHUNKS_MAX
        ):
            return None
    except (OSError, ValueError, TypeError):
        return None
    whole = lines[:-1]  # what follows the last newline was cut short
    done = {int(line) for line in whole if len(line) == LINE_DIGITS and line.isdigit()}
    return plan, {chunk for chunk in done if chunk < plan.chunk_count}


class Journal:
    """The journal of a download under way, open for appending."""

    __slots__ = ("_descriptor", "done", "plan")

    def __init__(self, descriptor: int, plan: Plan, done: set[int]) -> None:
        self._descriptor = descriptor
        self.plan = plan
        self.done = done

    @property
    def done_bytes(self) -> int:
        return sum(end - start for start, end in map(self.plan.span, self.done))

    def commit(self, chunk: int, data_descriptor: int) -> None:
        """Record a chunk, its bytes made durable first."""
        self.commit_all([chunk], data_descriptor)

    def commit_all(self, chunks: Collection[int], data_descriptor: int) -> None:
        """Record several chunks with one sync."""
        sync_data(data_descriptor)
        os.write(self._descriptor, b"".join(b"%0*d\n" % (LINE_DIGITS, chunk) for chunk in chunks))
        self.done.update(chunks)

    def close(self) -> None:
        os.close(self._descriptor)


def open_journal(path: Path, data_path: Path, plan: Plan) -> Journal:
    """Go on with the journal at `path` if it and its data are of the same content, else begin anew."""
    found = load(path)
    if found is not None and found[0].is_same_content(plan):
        before, done = found
        try:
            intact = data_path.stat().st_size == before.size_bytes
        except FileNotFoundError:
            intact = False
        if intact:
            # Rewritten, so that a line that was cut short does not join the next one.
            _begin(path, before, done)
            return Journal(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC), before, done)
    data_path.unlink(missing_ok=True)
    with open(data_path, "wb") as file:
        file.truncate(plan.size_bytes)
    _begin(path, plan, set())
    return Journal(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC), plan, set())


def hand_over(path: Path, *, url: str, sha256: str) -> None:
    """Say that the data of a journal is also what `url` gives, as far as SHA-256 `sha256` goes."""
    found = load(path)
    if found is not None:
        _begin(path, replace(found[0], url=url, sha256=sha256, validator=None), found[1])


def _begin(path: Path, plan: Plan, done: set[int]) -> None:
    lines = [json.dumps(asdict(plan)).encode(), *(b"%0*d" % (LINE_DIGITS, chunk) for chunk in sorted(done))]
    partial = path.with_suffix(".new")
    partial.write_bytes(b"\n".join(lines) + b"\n")
    os.replace(partial, path)
