"""What was paid for and what checking found, as JSON and as words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unhosted.market.receipts import decode_response
from unhosted.market.signed import Signed
from unhosted.node.core.checks_pairs import sentence
from unhosted.node.core.checks_words import Pair, PairKey, State
from unhosted.node.core.confirmations import Vote
from unhosted.node.core.errors import Refused
from unhosted.node.shell.checking.book import BookView
from unhosted.node.shell.checking.rows import CheckedLine
from unhosted.node.shell.money.kept_words import ReceiptLine
from unhosted.verify.eprocess import log10_e_milli, peak_log10_e_milli
from unhosted.verify.verdicts import Stage, response_of

__all__ = ["BookView", "Shown", "counters", "matching", "receipts", "seller_of", "sellers", "word"]

Shown = dict[str, Any]

LINES_SEARCHED_MAX = 1_000
"""The newest receipts, where one is looked for by the start of its hash."""

ID_CHARS_MIN = 6
"""Hex digits, or characters of a peer id, that may stand for the whole."""

NOT_CHECKED_YET = {"status": "waiting", "why": "", "tokens": 0, "mismatches": 0}


def receipts(lines: Sequence[ReceiptLine], book: BookView, names: Mapping[str, str]) -> list[Shown]:
    """names: of models here, by their hash in hex."""
    checked = {line.request_id: line for line in book.lines}
    return [_receipt(line, checked.get(line.receipt.receipt.request_id), names) for line in lines]


def sellers(book: BookView, names: Mapping[str, str], *, evidence: Sequence[Path] = ()) -> list[Shown]:
    """Under suspicion first, then those of which most was read."""
    waiting: dict[PairKey, int] = {}
    for line in book.lines:
        if line.status == "waiting":
            waiting[line.pair] = waiting.get(line.pair, 0) + 1
    ordered = sorted(book.pairs.items(), key=lambda item: (-item[1].stage, -item[1].history.checked, item[0]))
    return [_seller(key, pair, waiting.get(key, 0), names, evidence) for key, pair in ordered]


def matching(lines: Sequence[ReceiptLine], text: str) -> ReceiptLine:
    """The receipt whose hash or request begins so. Raises: Refused where there is none, or several."""
    if len(text) < ID_CHARS_MIN or not set(text) <= set("0123456789abcdef"):
        raise Refused(
            "invalid_request",
            f"{text[:80]!r} is not the start of a receipt's hash or a request's id: {ID_CHARS_MIN} hex digits"
            " or more are needed; `unhosted receipts` lists them",
            field="receipt",
        )
    found = [
        line
        for line in lines
        if line.receipt_hash.hex().startswith(text) or line.receipt.receipt.request_id.hex().startswith(text)
    ]
    if len(found) != 1:
        rest = "none" if not found else f"{len(found)} of them; give more digits"
        raise Refused(
            "invalid_request",
            f"of the newest {LINES_SEARCHED_MAX} receipts, {text[:80]!r} begins {rest}",
            field="receipt",
        )
    return found[0]


def hex_of(text: str) -> str:
    """As people copy it, with or without 0x."""
    return text.lower().removeprefix("0x")


def seller_of(text: str, book: BookView, lines: Sequence[ReceiptLine]) -> PairKey:
    """A pair, or a stand-in, of the one seller whose peer id begins or ends so. Raises: Refused."""
    known = {key.seller for key in book.pairs} | {line.seller for line in lines if line.seller}
    found = sorted(one for one in known if one == text or _is_part(one, text))
    if text in found:
        found = [text]
    if len(found) != 1:
        what = "no seller that anything was bought of" if not found else f"{len(found)} sellers"
        raise Refused(
            "invalid_request",
            f"{text[:80]!r} means {what}: `unhosted receipts` lists them; {ID_CHARS_MIN} characters of a peer"
            " id's start or end are enough",
            field="seller",
        )
    return PairKey(seller=found[0], model=b"")


def counters(state: State | None) -> dict[str, int]:
    """Running totals of what is known now; a seller that is forgotten takes its part with it."""
    pairs = () if state is None else tuple(state.pairs.values())
    return {
        "waiting": 0 if state is None else len(state.jobs),
        "answers": sum(pair.history.checked for pair in pairs),
        "tokens": sum(pair.history.checked_tokens for pair in pairs),
        "mismatches": sum(pair.evidence.mismatches for pair in pairs),
        **{f"sellers_{stage.name.lower()}": sum(pair.stage is stage for pair in pairs) for stage in Stage},
    }


def _receipt(line: ReceiptLine, checked: CheckedLine | None, names: Mapping[str, str]) -> Shown:
    receipt = line.receipt.receipt
    return {
        "number": line.number,
        "receipt": line.receipt_hash.hex(),
        "request": receipt.request_id.hex(),
        "seller": line.seller,
        "model": f"b3:{receipt.model.hex()}",
        "model_name": names.get(receipt.model.hex()),
        "tokens_in": receipt.tokens_in,
        "tokens_out": receipt.tokens_out,
        "cost_micros": receipt.amount_micros,
        "finish": decode_response(line.receipt.response).finish,
        "came_unix_s": line.came_unix_s,
        "is_gap": line.is_gap,
        "is_kept": line.is_kept,
        "check": _check(line, checked),
    }


def _check(line: ReceiptLine, checked: CheckedLine | None) -> Shown:
    if checked is None:
        if line.is_kept:
            return dict(NOT_CHECKED_YET)
        return NOT_CHECKED_YET | {"status": "not_checked", "why": "prompt and output are not kept"}
    return {
        "status": checked.status,
        "why": checked.why,
        "how": checked.how,
        "chance_ppm": checked.chance_ppm,
        "tokens": checked.tokens,
        "mismatches": checked.mismatches,
        "log10_e_milli": checked.log10_e_milli,
        "checked_unix_s": checked.decided_unix_s,
    }


def _seller(
    key: PairKey, pair: Pair, waiting: int, names: Mapping[str, str], evidence: Sequence[Path]
) -> Shown:
    response, history = response_of(pair.stage), pair.history
    mark = f"{key.seller[-8:]}-{key.model.hex()[:8]}-"
    files = [str(path) for path in evidence if path.name.startswith(mark)]
    name = names.get(key.model.hex())
    return {
        "seller": key.seller,
        "model": f"b3:{key.model.hex()}",
        "model_name": name,
        "stage": pair.stage.name.lower(),
        "receipts": history.receipts,
        "paid_micros": history.due_micros,
        "answers_checked": history.checked,
        "tokens_checked": history.checked_tokens,
        "tokens_judged": pair.evidence.tokens,
        "mismatches": pair.evidence.mismatches,
        "log10_e_milli": log10_e_milli(pair.evidence),
        "peak_log10_e_milli": peak_log10_e_milli(pair.evidence),
        "is_gross": pair.is_gross,
        "waiting": waiting,
        "holds_pay": response.holds_pay,
        "is_avoided": response.is_avoided,
        "evidence": files,
        "meaning": sentence(pair),
        "next": _next(key, pair, name, files),
    }


def _next(key: PairKey, pair: Pair, name: str | None, files: Sequence[str]) -> str:
    """The command that helps most now; empty where there is nothing to do."""
    if pair.stage is Stage.CONVICT and files:
        return f"unhosted verify {files[0]}"
    if pair.stage in (Stage.WATCH, Stage.HOLD):
        return f"unhosted check {key.seller[-ID_CHARS_MIN - 2 :]}"
    if pair.is_gross or pair.history.checked_tokens > pair.evidence.tokens:
        return f"unhosted calibrate {name or f'b3:{key.model.hex()}'}"
    return ""


def _is_part(peer: str, text: str) -> bool:
    return len(text) >= ID_CHARS_MIN and (peer.startswith(text) or peer.endswith(text))


def word(vote: Vote, signed: Signed) -> Shown:
    """A reader's word on evidence, and what it signed, so that others can check that it did."""
    return {
        "reader": vote.reader,
        "host": vote.host,
        "evidence": vote.evidence.hex(),
        "verdict": "convicts" if vote.convicts else "clear",
        "left_log10_e_milli": vote.left_milli,
        "is_proven": vote.is_proven,
        "engine_class": vote.engine_class,
        "check": vote.check,
        "body": signed.body.hex(),
        "signature": signed.signature.hex(),
    }
