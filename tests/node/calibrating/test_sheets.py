"""A sheet as bytes: one encoding, bounded, and what does not agree in it is refused."""

from dataclasses import replace
from typing import Any

import pytest

from tests.node.calibrating.sheets import sheet, table
from unhosted.market.cbor import decode, encode
from unhosted.market.faults import RemoteFault
from unhosted.node.core.calibrations import (
    NAME_CHARS_MAX,
    NAMES_MAX,
    ROWS_MAX,
    SHEET_BYTES_MAX,
    Control,
    Row,
    decode_sheet,
    encode_sheet,
    sheet_id,
    table_id,
)
from unhosted.node.core.peering import PeerId
from unhosted.node.shell.keys.identity import Identity

SIGNER = Identity(peer=PeerId("12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"), seed=bytes(32))
TABLE_ID = "a881832d189c8d28b288cba86cf3b8f13d39af97ef4ae3b00d9494c004893c0d"
SHEET_ID = "e647de5458335230abbb7396dede48e555ebed883f33a561bbd17be9283efc55"

SHEET = sheet(SIGNER, table("a"), table("b", rule="exact"))


def changed(**fields: Any) -> bytes:
    words = decode(encode_sheet(SHEET), bytes_max=SHEET_BYTES_MAX)
    words["rows"][0].update({key[4:]: value for key, value in fields.items() if key.startswith("row_")})
    words.update({key: value for key, value in fields.items() if not key.startswith("row_")})
    return encode(words)


def test_a_sheet_comes_back_as_it_was_and_a_word_of_later_versions_is_ignored() -> None:
    assert decode_sheet(encode_sheet(SHEET)) == SHEET
    assert decode_sheet(changed(later=1)) == SHEET


def test_the_ids_are_those_that_other_implementations_get() -> None:
    assert sheet_id(encode_sheet(SHEET)).hex() == SHEET_ID
    assert table_id(table("a")).hex() == TABLE_ID


def test_the_largest_sheet_can_be_read_again() -> None:
    row = Row(
        table=table("s" * 190),
        settings=("n" * NAME_CHARS_MAX,) * NAMES_MAX,
        tokens=1,
        mismatches=1,
        mean_x_ppb=1,
        controls=tuple(Control(name="n" * NAME_CHARS_MAX, tokens=1, needed=1) for _ in range(8)),
    )
    rows = [replace(row, table=table(f"{n:03}" + "s" * 190)) for n in range(ROWS_MAX)]
    large = replace(SHEET, rows=tuple(rows))
    assert decode_sheet(encode_sheet(large)) == large


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"v": 2}, "version 2"),
        ({"model": b"short"}, "model"),
        ({"rows": []}, "0 rows"),
        ({"rows": [{}] * (ROWS_MAX + 1)}, "rows"),
        ({"library": "x" * 201}, "library"),
        ({"row_table": b""}, ""),
        ({"row_tokens": 5}, "120 mismatches among 5 tokens"),
        ({"row_mean_x": 1_000_000_001}, "mean_x"),
        ({"row_controls": ["one"]}, "1 names, 2 and 2 numbers"),
        ({"row_needed": [5, True]}, "must be a list of int"),
        ({"row_settings": ["x"] * (NAMES_MAX + 1)}, "settings"),
        ({"row_settings": ["\n"]}, "setting"),
    ],
)
def test_what_does_not_agree_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(RemoteFault) as caught:
        decode_sheet(changed(**fields))
    assert said in caught.value.message


def test_a_table_for_unknown_pairs_is_never_stored() -> None:
    with pytest.raises(ValueError, match="never stored"):
        replace(SHEET.rows[0], table=replace(table(), is_gross=True))
