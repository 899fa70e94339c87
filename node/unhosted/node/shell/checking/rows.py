"""What is known of sellers and answers, as rows of SQLite, those that verdicts rest on with a checksum."""

import hashlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from unhosted.market.cbor import CborError, decode, encode
from unhosted.market.ids import RequestId
from unhosted.node.core.checks_words import (
    How,
    Job,
    Pair,
    PairKey,
    Prompt,
    Record,
    Status,
    Suspect,
)
from unhosted.node.shell.money.database import FileKind, RowDamaged, row_check
from unhosted.verify.eprocess import from_fields, to_fields
from unhosted.verify.selection import History
from unhosted.verify.verdicts import Stage

CHECKS_KIND = FileKind(
    name="the record of checks",
    advice="move it away to begin a new one: every seller is then checked as a new one, and nothing is lost"
    " but the evidence that had added up",
    application_id=0x554E4843,  # "UNHC"
    version=1,
    schema="""
CREATE TABLE pairs (
    seller TEXT NOT NULL, model BLOB NOT NULL, body BLOB NOT NULL, checked INTEGER NOT NULL,
    PRIMARY KEY (seller, model)
) STRICT, WITHOUT ROWID;
CREATE TABLE jobs (request_id BLOB PRIMARY KEY, body BLOB NOT NULL, checked INTEGER NOT NULL) STRICT;
CREATE TABLE answers (
    number INTEGER PRIMARY KEY, request_id BLOB NOT NULL UNIQUE, seller TEXT NOT NULL, model BLOB NOT NULL,
    came_unix_s INTEGER NOT NULL, decided_unix_s INTEGER NOT NULL, status TEXT NOT NULL, why TEXT NOT NULL,
    how TEXT NOT NULL, chance_ppm INTEGER NOT NULL, tokens INTEGER NOT NULL, mismatches INTEGER NOT NULL,
    log10_e INTEGER NOT NULL, is_told INTEGER NOT NULL
) STRICT;
CREATE TABLE prompts (
    number INTEGER PRIMARY KEY, pair BLOB NOT NULL, prompt BLOB NOT NULL, UNIQUE (pair, prompt)
) STRICT;
CREATE INDEX answers_untold ON answers (number) WHERE is_told = 0 AND status <> 'waiting'
""",
)

PAIR_MARK_BYTES = 16

BODY_BYTES_MAX = 65_536
"""A pair with all its suspects has 16 kB."""

PROMPTS_MAX = 1 << 20
"""Prompts whose answers were counted, over all pairs, some 100 MB. One that comes again stays the newest, so
that one is forgotten only after a million others: an honest flip that is counted twice drowns among them."""

WHY_CHARS_MAX = 400
"""Of a reason: sentences of ours, which may name a model's file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedLine:
    """What is known of one answer. decided_unix_s: 0 while it waits. log10_e_milli: of its pair, after it."""

    request_id: RequestId
    pair: PairKey
    came_unix_s: int
    decided_unix_s: int
    status: Status
    why: str
    how: How
    chance_ppm: int
    tokens: int
    mismatches: int
    log10_e_milli: int


def write_pair(database: sqlite3.Connection, key: PairKey, pair: Pair) -> None:
    history = pair.history
    body = encode(
        {
            "history": [
                history.checked,
                history.checked_tokens,
                history.checked_ok,
                history.receipts,
                history.due_micros,
            ],
            "stage": int(pair.stage),
            "evidence": to_fields(pair.evidence),
            "confirming": to_fields(pair.confirming),
            "proof": pair.proof,
            "proof_confirmed": pair.proof_confirmed,
            "is_gross": pair.is_gross,
            "suspects": [[_pack_job(one.job), one.weight_nnat, one.is_read_twice] for one in pair.suspects],
            "changed": pair.changed_ns,
        }
    )
    values = (key.seller, key.model, body)
    database.execute("INSERT OR REPLACE INTO pairs VALUES (?, ?, ?, ?)", (*values, row_check(*values)))


def delete_pair(database: sqlite3.Connection, key: PairKey) -> None:
    database.execute("DELETE FROM pairs WHERE seller = ? AND model = ?", (key.seller, key.model))


def read_pairs(database: sqlite3.Connection) -> Iterator[tuple[PairKey, Pair]]:
    for seller, model, body, check in database.execute("SELECT * FROM pairs ORDER BY seller, model"):
        words = _words(body, (seller, model, body), check)
        try:
            yield PairKey(seller=seller, model=model), _unpack_pair(words)
        except (KeyError, ValueError, TypeError) as fault:
            raise RowDamaged(f"what is known of {seller} is no row of ours: {fault}") from None


def has_prompt(database: sqlite3.Connection, key: PairKey, prompt: Prompt) -> bool:
    statement = "SELECT 1 FROM prompts WHERE pair = ? AND prompt = ?"
    return database.execute(statement, (_pair_mark(key), prompt)).fetchone() is not None


def write_prompt(database: sqlite3.Connection, key: PairKey, prompt: Prompt) -> None:
    """As the newest one; without the oldest where there are too many."""
    values = (_pair_mark(key), prompt)
    database.execute("DELETE FROM prompts WHERE pair = ? AND prompt = ?", values)
    database.execute("INSERT INTO prompts (pair, prompt) VALUES (?, ?)", values)
    database.execute(
        "DELETE FROM prompts WHERE number <= (SELECT max(number) FROM prompts) - ?", (PROMPTS_MAX,)
    )


def delete_prompts(database: sqlite3.Connection, key: PairKey) -> None:
    """Of a pair whose evidence begins from nothing."""
    database.execute("DELETE FROM prompts WHERE pair = ?", (_pair_mark(key),))


def write_job(database: sqlite3.Connection, job: Job) -> None:
    values = (job.request_id, encode(_pack_job(job)))
    database.execute("INSERT OR REPLACE INTO jobs VALUES (?, ?, ?)", (*values, row_check(*values)))


def delete_job(database: sqlite3.Connection, request_id: RequestId) -> None:
    database.execute("DELETE FROM jobs WHERE request_id = ?", (request_id,))


def read_jobs(database: sqlite3.Connection) -> Iterator[Job]:
    for request_id, body, check in database.execute("SELECT * FROM jobs"):
        words = _words(body, (request_id, body), check)
        try:
            yield _unpack_job(words)
        except (KeyError, ValueError, TypeError) as fault:
            raise RowDamaged(f"job {request_id.hex()[:8]} is no row of ours: {fault}") from None


def write_record(database: sqlite3.Connection, record: Record, *, now_unix_s: int) -> None:
    """The newest word on an answer; when it came stays."""
    decided_unix_s = 0 if record.status == "waiting" else now_unix_s
    database.execute(
        "INSERT INTO answers (request_id, seller, model, came_unix_s, decided_unix_s, status, why, how,"
        " chance_ppm, tokens, mismatches, log10_e, is_told) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)"
        " ON CONFLICT (request_id) DO UPDATE SET decided_unix_s = excluded.decided_unix_s,"
        " status = excluded.status, why = excluded.why, how = excluded.how,"
        " chance_ppm = excluded.chance_ppm, tokens = excluded.tokens, mismatches = excluded.mismatches,"
        " log10_e = excluded.log10_e, is_told = 0",
        (
            record.request_id,
            record.pair.seller,
            record.pair.model,
            now_unix_s,
            decided_unix_s,
            record.status,
            record.why[:WHY_CHARS_MAX],
            record.how,
            record.chance_ppm,
            record.tokens,
            record.mismatches,
            record.log10_e_milli,
        ),
    )


def read_line(database: sqlite3.Connection, request_id: RequestId) -> CheckedLine | None:
    found = database.execute(f"{_SELECT} WHERE request_id = ?", (request_id,)).fetchone()
    return None if found is None else _line(found)


def read_lines(database: sqlite3.Connection, *, count_max: int) -> list[CheckedLine]:
    """Newest first."""
    rows = database.execute(f"{_SELECT} ORDER BY number DESC LIMIT ?", (count_max,))
    return [_line(row) for row in rows]


def read_untold(database: sqlite3.Connection, *, count_max: int) -> list[CheckedLine]:
    """Decided, and not yet marked where the answers are kept."""
    statement = f"{_SELECT} WHERE is_told = 0 AND status <> 'waiting' ORDER BY number LIMIT ?"
    return [_line(row) for row in database.execute(statement, (count_max,))]


def write_told(database: sqlite3.Connection, request_id: RequestId) -> None:
    database.execute("UPDATE answers SET is_told = 1 WHERE request_id = ?", (request_id,))


def delete_old(database: sqlite3.Connection, *, keep: int) -> None:
    """All but the newest lines, of those that are decided and marked: none of them can come again."""
    database.execute(
        "DELETE FROM answers WHERE is_told = 1 AND status <> 'waiting'"
        " AND number <= (SELECT max(number) FROM answers) - ?",
        (keep,),
    )


def count_by_status(database: sqlite3.Connection) -> dict[Status, tuple[int, int, int]]:
    """Answers, tokens read and mismatches among them."""
    rows = database.execute(
        "SELECT status, count(*), sum(tokens), sum(mismatches) FROM answers GROUP BY status"
    )
    return {cast(Status, status): (count, tokens, wrong) for status, count, tokens, wrong in rows}


_SELECT = (
    "SELECT request_id, seller, model, came_unix_s, decided_unix_s, status, why, how, chance_ppm, tokens,"
    " mismatches, log10_e FROM answers"
)


def _line(row: tuple[Any, ...]) -> CheckedLine:
    request_id, seller, model, came, decided, status, why, how, chance, tokens, mismatches, log10_e = row
    return CheckedLine(
        request_id=RequestId(request_id),
        pair=PairKey(seller=seller, model=model),
        came_unix_s=came,
        decided_unix_s=decided,
        status=status,
        why=why,
        how=how,
        chance_ppm=chance,
        tokens=tokens,
        mismatches=mismatches,
        log10_e_milli=log10_e,
    )


def _words(body: bytes, values: tuple[object, ...], check: int) -> dict[str, Any]:
    if row_check(*values) != check:
        raise RowDamaged("a row does not fit its checksum")
    try:
        words = decode(body, bytes_max=BODY_BYTES_MAX)
    except CborError as fault:
        raise RowDamaged(f"a row is no row of ours: {fault}") from None
    if type(words) is not dict:
        raise RowDamaged("a row is no map")
    return words


def _pair_mark(key: PairKey) -> bytes:
    """A row for each prompt: the seller's whole name in each would be most of it."""
    return hashlib.blake2b(key.model + key.seller.encode(), digest_size=PAIR_MARK_BYTES).digest()


def _pack_job(job: Job) -> dict[str, object]:
    return {
        "request": job.request_id,
        "seller": job.pair.seller,
        "model": job.pair.model,
        "in": job.tokens_in,
        "out": job.tokens_out,
        "due": job.due_micros,
        "how": job.how,
        "chance": job.chance_ppm,
        "entropy": job.entropy,
        "order": job.order,
        "attempts": job.attempts,
        "not_before": job.not_before_ns,
        "asked": job.is_asked,
        "second": job.is_second,
        "repeat": job.is_repeat,
    }


def _unpack_job(words: dict[str, Any]) -> Job:
    return Job(
        request_id=RequestId(words["request"]),
        pair=PairKey(seller=words["seller"], model=words["model"]),
        tokens_in=words["in"],
        tokens_out=words["out"],
        due_micros=words["due"],
        how=words["how"],
        chance_ppm=words["chance"],
        entropy=words["entropy"],
        order=words["order"],
        attempts=words["attempts"],
        not_before_ns=words["not_before"],
        is_asked=words["asked"],
        is_second=words["second"],
        is_repeat=words["repeat"],
    )


def _unpack_pair(words: dict[str, Any]) -> Pair:
    checked, checked_tokens, checked_ok, receipts, due_micros = words["history"]
    return Pair(
        history=History(
            checked=checked,
            checked_tokens=checked_tokens,
            checked_ok=checked_ok,
            receipts=receipts,
            due_micros=due_micros,
        ),
        stage=Stage(words["stage"]),
        evidence=from_fields(tuple(words["evidence"])),
        confirming=from_fields(tuple(words["confirming"])),
        proof=words["proof"],
        proof_confirmed=words["proof_confirmed"],
        is_gross=words["is_gross"],
        suspects=tuple(
            Suspect(job=_unpack_job(job), weight_nnat=weight, is_read_twice=is_read)
            for job, weight, is_read in words["suspects"]
        ),
        changed_ns=words["changed"],
    )
