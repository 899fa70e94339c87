"""Sheets made by hand for the tests beside this file."""

from dataclasses import replace

from unhosted.node.core.calibrations import Control, Row, Sheet
from unhosted.node.shell.keys.identity import Identity, public_key
from unhosted.verify.noise import GAP_EDGES_MLOGIT, NoiseTable, Rule

MODEL = bytes(range(32))
BUILD = "ab" * 32


def table(
    seller: str = "seller", checker: str = "checker", *, rule: Rule = "statistical", mean_ppb: int = 2_000_000
) -> NoiseTable:
    bins = len(GAP_EDGES_MLOGIT)
    return NoiseTable(
        model=MODEL,
        seller_class=seller,
        checker_class=checker,
        library="llama.cpp 1",
        rule=rule,
        clip_mlogit=500,
        mean_max_ppb=(mean_ppb,) * bins,
        bets_ppb=((20_000_000,) * bins, (90_000_000,) * bins),
        tokens=(700,) * bins,
        held_out_growth_nnat=-1_000_000,
        mismatch_max_ppb=40_000_000,
    )


def sheet(
    identity: Identity, *tables: NoiseTable, build: str = BUILD, made_unix_s: int = 1_700_000_000
) -> Sheet:
    rows = tuple(
        Row(
            table=one,
            settings=("usual", "one slot"),
            tokens=6_300,
            mismatches=120,
            mean_x_ppb=1_000_000,
            controls=(
                Control(name="other seed", tokens=1_500, needed=31),
                Control(name="0.2 hotter", tokens=1_500, needed=None),
            ),
        )
        for one in tables or (table(),)
    )
    return Sheet(
        model=rows[0].table.model,
        signer=public_key(identity.peer),
        library="llama.cpp 1",
        build=build,
        device="cpu",
        made_unix_s=made_unix_s,
        prompts_revision=1,
        rows=rows,
    )


def of_model(one: NoiseTable, model: bytes) -> NoiseTable:
    return replace(one, model=model)
