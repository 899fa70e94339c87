"""The bytes of an evidence file: one deterministic CBOR map; answers, receipts and the report are byte
strings inside it, each a map of its own, so that each is read under its own limits. `docs/protocol.md`
specifies it.
"""

from collections.abc import Sequence
from struct import error as StructError
from struct import pack, unpack
from typing import Any, NewType, cast

from unhosted.market.acks import ACK_BYTES_MAX, SignedAck, decode_ack, encode_ack
from unhosted.market.cbor import encode
from unhosted.market.channels import ChainId, Deployment
from unhosted.market.fields import Fields, malformed, read_message
from unhosted.market.hashing import blake3_of
from unhosted.market.messages_wire import CHAIN_ID_MAX
from unhosted.market.offers import CHECK_CLASSES, CheckClass
from unhosted.market.receipts import RECEIPT_BYTES_MAX, SignedReceipt, decode_receipt, encode_receipt
from unhosted.market.requests import REQUEST_BODY_BYTES_MAX
from unhosted.market.roots import BLOCK_IDS, IDS_MAX, SALT_BYTES, SIBLINGS_MAX, Prefix, Side
from unhosted.market.signed import FRAME_BYTES, decode_signed, encode_signed
from unhosted.node.core.engine_facts import FACTS_BYTES_MAX, Replay, decode_facts, encode_facts
from unhosted.node.core.evidence import (
    ANSWERS_MAX,
    HOWS,
    OTHERS_MAX,
    PPM,
    TOKENS_MAX,
    Evidence,
    How,
    OpenedAnswer,
    Report,
    Reported,
)
from unhosted.node.core.noise_words import TABLE_BYTES_MAX, decode_table, encode_table

EvidenceHash = NewType("EvidenceHash", bytes)
"""BLAKE3 of a file: what a confirmation is of."""

EVIDENCE_DOMAIN = b"unhosted/evidence/v1"
VERSION = 1

EVIDENCE_BYTES_MAX = 16 << 20
"""TOKENS_MAX ids with their salts and the report on each come to 4 MiB, OTHERS_MAX receipts to one, and 256
requests with every sampling option to six."""

ANSWER_BYTES_MAX = 8 << 20
REPORT_BYTES_MAX = FACTS_BYTES_MAX + TABLE_BYTES_MAX + 1_024
_ID_BYTES = 4
_IDS_BYTES_MAX = TOKENS_MAX * _ID_BYTES
_SALTS_BYTES_MAX = (TOKENS_MAX // BLOCK_IDS + 1) * SALT_BYTES
KV_TYPE_CHARS_MAX = 16
REPLAY_TOKENS_MAX = 1 << 20


def encode_evidence(evidence: Evidence) -> bytes:
    return encode(
        {
            "v": VERSION,
            "chain": evidence.bonds.chain_id,
            "contract": evidence.bonds.contract,
            "accused": evidence.accused,
            "answers": [_encode_answer(answer) for answer in evidence.answers],
            "others": [encode_receipt(signed) for signed in evidence.others],
            "report": None if evidence.report is None else _encode_report(evidence.report),
        }
    )


def decode_evidence(data: bytes) -> Evidence:
    """What the file says; nothing is checked against anything yet.

    Raises: RemoteFault, and nothing else, whatever the bytes are.
    """
    return read_message(data, bytes_max=EVIDENCE_BYTES_MAX, version=VERSION, unpack=_unpack)


def evidence_hash(data: bytes) -> EvidenceHash:
    return EvidenceHash(blake3_of(EVIDENCE_DOMAIN, data))


def _unpack(fields: Fields) -> Evidence:
    answers = _pieces(fields, "answers", most=ANSWERS_MAX, bytes_max=ANSWER_BYTES_MAX)
    others = _pieces(fields, "others", most=OTHERS_MAX, bytes_max=RECEIPT_BYTES_MAX)
    return Evidence(
        bonds=Deployment(
            chain_id=ChainId(fields.uint("chain", least=1, most=CHAIN_ID_MAX)),
            contract=fields.address("contract"),
        ),
        accused=fields.address("accused"),
        answers=tuple(_decode_answer(data) for data in answers),
        others=tuple(decode_receipt(data) for data in others),
        report=_decode_report(fields.data("report", bytes_max=REPORT_BYTES_MAX))
        if fields.has("report")
        else None,
    )


def _pieces(fields: Fields, key: str, *, most: int, bytes_max: int) -> list[bytes]:
    pieces = fields.items(key, most=most)
    if not all(type(one) is bytes and len(one) <= bytes_max for one in pieces):
        raise fields.wrong(key, f"every entry must be at most {bytes_max} bytes")
    return pieces


def _encode_answer(answer: OpenedAnswer) -> bytes:
    is_receipt = isinstance(answer.word, SignedReceipt)
    words: dict[str, Any] = {
        "v": VERSION,
        "request": encode_signed(answer.request),
        "receipt": encode_receipt(answer.word) if isinstance(answer.word, SignedReceipt) else None,
        "ack": None if is_receipt else encode_ack(cast(SignedAck, answer.word)),
        "facts": answer.facts,
        "prompt": _pack_prefix(answer.prompt),
        "output": _pack_prefix(answer.output),
        "how": answer.how,
        "chance": answer.chance_ppm,
        "seen": None if answer.reported is None else _pack_reported(answer.reported),
    }
    return encode(words)


def _decode_answer(data: bytes) -> OpenedAnswer:
    def unpack_answer(fields: Fields) -> OpenedAnswer:
        if fields.has("receipt") == fields.has("ack"):
            raise fields.wrong("receipt", "a receipt or an acknowledgement is needed, and not both")
        word: SignedReceipt | SignedAck
        if fields.has("receipt"):
            word = decode_receipt(fields.data("receipt", bytes_max=RECEIPT_BYTES_MAX))
        else:
            word = decode_ack(fields.data("ack", bytes_max=ACK_BYTES_MAX))
        request = fields.data("request", bytes_max=REQUEST_BODY_BYTES_MAX + FRAME_BYTES)
        output = _unpack_prefix(fields.map("output"), "output")
        return OpenedAnswer(
            request=decode_signed(request, body_bytes_max=REQUEST_BODY_BYTES_MAX),
            word=word,
            facts=fields.data("facts", bytes_max=FACTS_BYTES_MAX),
            prompt=_unpack_prefix(fields.map("prompt"), "prompt"),
            output=output,
            how=cast(How, fields.word("how", among=HOWS)),
            chance_ppm=fields.uint("chance", most=PPM),
            reported=_unpack_reported(fields.map("seen"), len(output.ids)) if fields.has("seen") else None,
        )

    return read_message(data, bytes_max=ANSWER_BYTES_MAX, version=VERSION, unpack=unpack_answer)


def _pack_prefix(prefix: Prefix) -> dict[str, Any]:
    return {
        "count": prefix.count,
        "ids": _pack_numbers(prefix.ids),
        "salts": b"".join(prefix.salts),
        "shut": b"".join(prefix.siblings),
    }


def _unpack_prefix(fields: Fields, side: Side) -> Prefix:
    return Prefix(
        side=side,
        count=fields.uint("count", most=IDS_MAX),
        ids=_numbers(fields, "ids", bytes_max=_IDS_BYTES_MAX),
        salts=_hashes(fields, "salts", bytes_max=_SALTS_BYTES_MAX),
        siblings=_hashes(fields, "shut", bytes_max=SIBLINGS_MAX * SALT_BYTES),
    )


def _pack_reported(reported: Reported) -> dict[str, Any]:
    return {
        "gap": _pack_numbers(reported.gap_mlogit),
        "margin": _pack_numbers(reported.margin_mlogit),
        "match": bytes(reported.is_match),
    }


def _unpack_reported(fields: Fields, tokens: int) -> Reported:
    matches = fields.data("match", bytes_max=tokens)
    if not set(matches) <= {0, 1}:
        raise fields.wrong("match", "every byte must be 0 or 1")
    return Reported(
        gap_mlogit=_numbers(fields, "gap", bytes_max=tokens * _ID_BYTES),
        margin_mlogit=_numbers(fields, "margin", bytes_max=tokens * _ID_BYTES),
        is_match=tuple(map(bool, matches)),
    )


def _encode_report(report: Report) -> bytes:
    replay = report.replay
    return encode(
        {
            "v": VERSION,
            "engine": encode_facts(report.engine),
            "check": report.check,
            "replay": {
                "ubatch": replay.ubatch_tokens,
                "piece": replay.output_piece_tokens,
                "kv": replay.kv_type,
                "flash": replay.flash_attention,
            },
            "calibration": report.calibration,
            "table": encode_table(report.table),
            "log10_e": report.log10_e_milli,
            "made": report.made_unix_s,
        }
    )


def _decode_report(data: bytes) -> Report:
    def unpack_report(fields: Fields) -> Report:
        replay = fields.map("replay")
        return Report(
            engine=decode_facts(fields.data("engine", bytes_max=FACTS_BYTES_MAX)),
            check=cast(CheckClass, fields.word("check", among=CHECK_CLASSES)),
            replay=Replay(
                ubatch_tokens=replay.uint("ubatch", least=1, most=REPLAY_TOKENS_MAX),
                output_piece_tokens=replay.uint("piece", least=1, most=REPLAY_TOKENS_MAX),
                kv_type=replay.text("kv", chars_max=KV_TYPE_CHARS_MAX),
                flash_attention=replay.flag("flash"),
            ),
            calibration=fields.exactly("calibration"),
            table=decode_table(fields.data("table", bytes_max=TABLE_BYTES_MAX)),
            log10_e_milli=fields.uint("log10_e", least=-(1 << 53), most=1 << 53),
            made_unix_s=fields.uint("made", most=1 << 40),
        )

    return read_message(data, bytes_max=REPORT_BYTES_MAX, version=VERSION, unpack=unpack_report)


def _pack_numbers(numbers: Sequence[int]) -> bytes:
    return pack(f"<{len(numbers)}I", *numbers)


def _numbers(fields: Fields, key: str, *, bytes_max: int) -> tuple[int, ...]:
    data = fields.data(key, bytes_max=bytes_max)
    try:
        return unpack(f"<{len(data) // _ID_BYTES}I", data)
    except StructError:
        raise malformed(f"{key}: {len(data)} bytes, a multiple of {_ID_BYTES} is needed") from None


def _hashes(fields: Fields, key: str, *, bytes_max: int) -> tuple[bytes, ...]:
    data = fields.data(key, bytes_max=bytes_max)
    if len(data) % SALT_BYTES:
        raise fields.wrong(key, f"{len(data)} bytes, a multiple of {SALT_BYTES} is needed")
    return tuple(data[at : at + SALT_BYTES] for at in range(0, len(data), SALT_BYTES))
