"""What a calibration found, as one message: noise tables of a model, and what was measured for each.

A sheet is of one model and one checking engine, down to the build of its library. Its rows are pairs of
engine classes. The bytes are signed as they are, and their hash is what the sheet is known by; a single
table is known by its own hash, so that evidence can name just the one that it used.
"""

from dataclasses import dataclass, field
from typing import TypeVar

from unhosted.market.cbor import encode
from unhosted.market.fields import Fields, read_message
from unhosted.market.hashing import blake3_of
from unhosted.node.core.noise_words import TABLE_BYTES_MAX, decode_table, encode_table
from unhosted.verify.noise import PPB, NoiseTable

VERSION = 1
SHEET_DOMAIN = b"unhosted/calibration/v1"
TABLE_DOMAIN = b"unhosted/noise-table/v1"
KEY_BYTES = 32

ROWS_MAX = 40
"""Pairs of engine classes of one model on one machine: ten were found, other caches and builds add some."""

NAMES_MAX = 20
"""Settings that fell into one class, and cheats that were tried."""

NAME_CHARS_MAX = 60
TEXT_CHARS_MAX = 200
SHEET_BYTES_MAX = ROWS_MAX * (TABLE_BYTES_MAX + 4_096)
TOKENS_MAX = 1 << 40

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """A cheat that a table was tried on. tokens: of the cheat that were read.

    needed: after how many of them E reached a million, the median over beginnings; None if it mostly did not.
    """

    name: str
    tokens: int
    needed: int | None

    def __post_init__(self) -> None:
        _check_text("control", self.name, NAME_CHARS_MAX)
        if not 0 <= self.tokens <= TOKENS_MAX or not 0 < (self.needed or 1) <= TOKENS_MAX:
            raise ValueError(f"control {self.name}: {self.needed} of {self.tokens} tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One pair. settings: the seller's, by name, that fell into its class.

    tokens, mismatches: of all that was measured. mean_x_ppb: of X over them.
    """

    table: NoiseTable
    settings: tuple[str, ...]
    tokens: int
    mismatches: int
    mean_x_ppb: int
    controls: tuple[Control, ...] = field(default=())

    def __post_init__(self) -> None:
        if not 0 <= self.mismatches <= self.tokens <= TOKENS_MAX:
            raise ValueError(f"{self.mismatches} mismatches among {self.tokens} tokens")
        if not 0 <= self.mean_x_ppb <= PPB:
            raise ValueError(f"mean_x_ppb {self.mean_x_ppb} is outside 0 to {PPB}")
        if len(self.settings) > NAMES_MAX or len(self.controls) > NAMES_MAX:
            raise ValueError(f"a row has more than {NAMES_MAX} settings or controls")
        for name in self.settings:
            _check_text("setting", name, NAME_CHARS_MAX)
        if self.table.is_gross:
            raise ValueError("a table for unknown pairs is made when it is needed, never stored")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """signer: Ed25519 key, 32 bytes. library, build, device: of the engine that checked, as its facts say.

    prompts_revision: of the prompts that were used. rows: each pair of classes and rule at most once.
    """

    model: bytes
    signer: bytes
    library: str
    build: str
    device: str
    made_unix_s: int
    prompts_revision: int
    rows: tuple[Row, ...]

    def __post_init__(self) -> None:
        if len(self.model) != KEY_BYTES or len(self.signer) != KEY_BYTES:
            raise ValueError(f"model of {len(self.model)}, signer of {len(self.signer)} bytes: 32 are needed")
        if not 0 < len(self.rows) <= ROWS_MAX:
            raise ValueError(f"{len(self.rows)} rows, 1 to {ROWS_MAX} are needed")
        for name in ("library", "build", "device"):
            _check_text(name, getattr(self, name), TEXT_CHARS_MAX)
        if any(row.table.model != self.model for row in self.rows):
            raise ValueError("a row is of another model")
        pairs = {(row.table.rule, row.table.seller_class, row.table.checker_class) for row in self.rows}
        if len(pairs) != len(self.rows):
            raise ValueError("a pair of classes stands there twice")


def encode_sheet(sheet: Sheet) -> bytes:
    """The bytes to sign, after SHEET_DOMAIN."""
    return encode(
        {
            "v": VERSION,
            "model": sheet.model,
            "signer": sheet.signer,
            "library": sheet.library,
            "build": sheet.build,
            "device": sheet.device,
            "made": sheet.made_unix_s,
            "prompts": sheet.prompts_revision,
            "rows": [
                {
                    "table": encode_table(row.table),
                    "settings": row.settings,
                    "tokens": row.tokens,
                    "mismatches": row.mismatches,
                    "mean_x": row.mean_x_ppb,
                    "controls": [one.name for one in row.controls],
                    "tried": [one.tokens for one in row.controls],
                    "needed": [one.needed or 0 for one in row.controls],
                }
                for row in sheet.rows
            ],
        }
    )


def decode_sheet(body: bytes) -> Sheet:
    """The sheet; who signed it is not looked at. Raises: RemoteFault."""
    return read_message(body, bytes_max=SHEET_BYTES_MAX, version=VERSION, unpack=_unpack)


def sheet_id(body: bytes) -> bytes:
    """What a sheet is known by: 32 bytes over the signed ones."""
    return blake3_of(SHEET_DOMAIN, body)


def table_id(table: NoiseTable) -> bytes:
    """What a table is known by, also one that was made for an unknown pair: 32 bytes."""
    return blake3_of(TABLE_DOMAIN, encode_table(table))


def _unpack(fields: Fields) -> Sheet:
    return Sheet(
        model=fields.exactly("model"),
        signer=fields.exactly("signer", size_bytes=KEY_BYTES),
        library=fields.text("library", chars_max=TEXT_CHARS_MAX),
        build=fields.text("build", chars_max=TEXT_CHARS_MAX),
        device=fields.text("device", chars_max=TEXT_CHARS_MAX),
        made_unix_s=fields.uint("made", most=TOKENS_MAX),
        prompts_revision=fields.uint("prompts", most=1 << 31),
        rows=tuple(_row(row, index) for index, row in enumerate(fields.items("rows", most=ROWS_MAX))),
    )


def _row(value: object, index: int) -> Row:
    fields = Fields(value, f"rows[{index}]")
    names = _list(fields, "controls", str)
    tried = _list(fields, "tried", int)
    needed = _list(fields, "needed", int)
    if not len(names) == len(tried) == len(needed):
        raise fields.wrong("controls", f"{len(names)} names, {len(tried)} and {len(needed)} numbers")
    return Row(
        table=decode_table(fields.data("table", bytes_max=TABLE_BYTES_MAX)),
        settings=tuple(_list(fields, "settings", str)),
        tokens=fields.uint("tokens", most=TOKENS_MAX),
        mismatches=fields.uint("mismatches", most=TOKENS_MAX),
        mean_x_ppb=fields.uint("mean_x", most=PPB),
        controls=tuple(
            Control(name=name, tokens=tokens, needed=count or None)
            for name, tokens, count in zip(names, tried, needed, strict=True)
        ),
    )


def _list(fields: Fields, key: str, kind: type[T]) -> list[T]:
    values = fields.items(key, most=NAMES_MAX)
    if not all(type(one) is kind for one in values):
        raise fields.wrong(key, f"must be a list of {kind.__name__}")
    return values


def _check_text(name: str, text: str, chars_max: int) -> None:
    if len(text) > chars_max or not text.isprintable():
        raise ValueError(f"{name}: must be at most {chars_max} printable characters, not {len(text)}")
