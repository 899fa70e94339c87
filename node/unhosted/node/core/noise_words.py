"""A noise table as a message: canonical CBOR, bounded, so that it can be signed, stored, and lie in
evidence."""

from typing import cast

from unhosted.market.cbor import encode
from unhosted.market.fields import Fields, read_message
from unhosted.verify.noise import BET_ROWS_MAX, CLASS_CHARS_MAX, GAP_EDGES_MLOGIT, PPB, NoiseTable, Rule

VERSION = 1
TABLE_BYTES_MAX = 4_096
"""Three texts of at most 200 characters, nine bins in six rows, and what surrounds them."""

BIN_TOKENS_MAX = 1 << 53
GROWTH_NNAT_MAX = 1_000_000_000_000
"""A thousand nats per token: no bet wins or loses as much."""

_RULES = ("exact", "statistical")


def encode_table(table: NoiseTable) -> bytes:
    return encode(
        {
            "v": VERSION,
            "model": table.model,
            "seller": table.seller_class,
            "checker": table.checker_class,
            "library": table.library,
            "rule": table.rule,
            "clip": table.clip_mlogit,
            "mean": table.mean_max_ppb,
            "bets": table.bets_ppb,
            "tokens": table.tokens,
            "growth": table.held_out_growth_nnat,
            "gross": table.is_gross,
            "mismatch": table.mismatch_max_ppb,
        }
    )


def decode_table(data: bytes) -> NoiseTable:
    """Raises: RemoteFault."""
    return read_message(data, bytes_max=TABLE_BYTES_MAX, version=VERSION, unpack=_unpack)


def _unpack(fields: Fields) -> NoiseTable:
    return NoiseTable(
        model=fields.exactly("model"),
        seller_class=fields.text("seller", chars_max=CLASS_CHARS_MAX),
        checker_class=fields.text("checker", chars_max=CLASS_CHARS_MAX),
        library=fields.text("library", chars_max=CLASS_CHARS_MAX),
        rule=cast(Rule, fields.word("rule", among=_RULES)),
        clip_mlogit=fields.uint("clip", least=1, most=100_000),
        mean_max_ppb=_row(fields, "mean", fields.items("mean", most=len(GAP_EDGES_MLOGIT)), most=PPB),
        bets_ppb=tuple(
            _row(fields, "bets", row, most=PPB) for row in fields.items("bets", most=BET_ROWS_MAX)
        ),
        tokens=_row(
            fields, "tokens", fields.items("tokens", most=len(GAP_EDGES_MLOGIT)), most=BIN_TOKENS_MAX
        ),
        held_out_growth_nnat=fields.uint("growth", least=-GROWTH_NNAT_MAX, most=GROWTH_NNAT_MAX),
        is_gross=fields.flag("gross"),
        mismatch_max_ppb=fields.uint("mismatch", least=1, most=PPB - 1),
    )


def _row(fields: Fields, key: str, row: object, *, most: int) -> tuple[int, ...]:
    if type(row) is not list or not all(type(one) is int and 0 <= one <= most for one in row):
        raise fields.wrong(key, f"must be a list of integers from 0 to {most}")
    return tuple(row)
