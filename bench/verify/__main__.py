"""`python -m bench.verify [--quick]`: what verification catches, measured on real engines.

Makes the models and the answers on first use and keeps them under bench/results/verify, so that it can be
interrupted, and so that tables can be made anew when the rules change. The whole takes about two hours of one
core; `--quick` takes a tenth of the tokens and says little about rare things.
"""

import argparse
import shutil
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from bench.common import Report, save
from bench.verify import vectors
from bench.verify.cheats import BY_NAME, CHEATS, HONEST, Cheat, cheat_answers
from bench.verify.corpus import KEPT_DIR, Served, honest_answers, honest_settings
from bench.verify.hard import hard_rows
from bench.verify.models import SOLD
from bench.verify.pairs import (
    NO_FLASH,
    STATISTICAL,
    Facts,
    Pair,
    exact_checker,
    of_part,
    other_library,
    pairs,
)
from bench.verify.power import Calm, Power, calm, power, repeated
from bench.verify.scoring import Seen, read_again
from bench.verify.tables import (
    cheats_table,
    hard_table,
    honest_table,
    kinds_table,
    measurements,
    show,
    write,
)
from bench.verify.vectors import Recorded
from unhosted.node.core.engine_facts import engine_class
from unhosted.node.shell.calibrating.answers import TEMPERATURES
from unhosted.node.shell.calibrating.prompts import KINDS
from unhosted.node.shell.calibrating.settings import CheckerSetting
from unhosted.node.shell.engine.library import other_libraries
from unhosted.verify.noise import NoiseTable, Rule

HONEST_TOKENS, CHEAT_TOKENS = 5_000, 5_000
"""Of each seller: eleven honest ones make 50,000."""

RECORDED: Mapping[Rule, frozenset[str]] = MappingProxyType(
    {
        "statistical": frozenset(
            {"gemma", "seed", "pruned", "q2_k", "q3_k_m", "q4_0", "t10", "kv-q4_0", "system", "tail-q2_k"}
        ),
        "exact": frozenset({"q4_0", "full-stop", "q8_0", "kv-q8_0"}),
    }
)
FIT_OF_TEN = 7
RULES: tuple[Rule, Rule] = ("statistical", "exact")
HonestRow = tuple[str, str, str, Calm | None, Calm | None, str]


def main() -> int:
    options = _options()
    if options.rescore:
        shutil.rmtree(KEPT_DIR / "seen", ignore_errors=True)
    report = Report()
    report.machine()
    reads = not options.kept
    share = 10 if options.quick else 1
    honest_tokens = (options.tokens or HONEST_TOKENS) // share if reads else 0
    cheat_tokens = (options.tokens or CHEAT_TOKENS) // share if reads else 0
    libraries = [library.path for library in other_libraries()]
    sellers = tuple(
        honest_answers(setting, zlib.crc32(setting.name.encode()) % 1_000, honest_tokens)
        for setting in honest_settings(libraries)
    )
    facts = Facts()
    found = _honest_pairs(facts, sellers, libraries, reads=reads)
    honest_rows = [row for pair in found for row in _honest_rows(pair)]
    tables = [honest_table(honest_rows, _repeated(found[0])), kinds_table(_kinds(found[0]))]
    rows = [_judged(facts, cheat, found, cheat_tokens, reads=reads) for cheat in CHEATS]
    powers = [(cheat, _power_of(statistical), _power_of(exact)) for cheat, statistical, exact in rows]
    tables += [cheats_table(powers), hard_table(hard_rows(cheat_tokens, reads=reads))]
    for table in tables:
        show(report, table)
    named = {
        f"{cheat.name} {rule}": one.power
        for cheat, *both in rows
        for rule, one in zip(RULES, both, strict=True)
        if one is not None
    }
    report.measurements["cheats"] = measurements(named)
    report.measurements["tables"] = {table.name: [table.header, *table.rows] for table in tables}
    save(report, options.json)
    if options.write:
        write(tables)
        vectors.write(_recorded(found, rows))
    return 0 if all(row[4] is None or row[4].accused == 0 for row in honest_rows) else 1


def _honest_pairs(
    facts: Facts, sellers: Sequence[Served], libraries: Sequence[Path], *, reads: bool
) -> list[Pair]:
    """By the statistical rule under each checker, and by the exact one where the product would use it."""
    found = list(pairs(facts, sellers, STATISTICAL, "statistical", reads=reads))
    for checker in (NO_FLASH, *(other_library(path) for path in libraries[:1])):
        alike = [seller for seller in sellers if seller.setting.name in ("usual", checker.engine.name)]
        found += pairs(facts, alike, checker, "statistical", reads=reads)
    exact: dict[CheckerSetting, list[Served]] = {}
    for seller in sellers:
        way = exact_checker(facts, seller)
        if way is not None:
            exact.setdefault(way, []).append(seller)
    for as_sold, members in exact.items():
        found += pairs(facts, members, as_sold, "exact", reads=reads)
    return found


def _honest_rows(pair: Pair) -> list[HonestRow]:
    rows: list[HonestRow] = []
    for seller, seen in pair.sellers:
        held_out = everything = None
        if pair.table is not None:
            held_out = calm(pair.table, of_part(seen, "held-out"))
            everything = calm(pair.table, [one.observations for one in seen])
        names = (pair.rule, seller.setting.name, pair.checker.name)
        rows.append((*names, held_out, everything, pair.refusal))
    return rows


def _kinds(pair: Pair) -> Iterator[tuple[str, Calm]]:
    if pair.table is None:
        return
    seen = [one for _, answers in pair.sellers for one in answers]
    for temperature in TEMPERATURES:
        chosen = [one.observations for one in seen if one.answer.sampling.temperature == temperature]
        if chosen:
            yield f"T {temperature:g}", calm(pair.table, chosen)
    for kind in KINDS:
        chosen = [one.observations for one in seen if one.answer.kind == kind]
        if chosen:
            yield kind, calm(pair.table, chosen)


def _repeated(pair: Pair) -> int | None:
    if pair.table is None:
        return None
    return repeated(pair.table, [one.observations for _, seen in pair.sellers for one in seen])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    """A cheat by one rule: the table it is judged by, what the checker saw, how soon it is convicted."""

    table: NoiseTable
    seen: tuple[Seen, ...]
    power: Power


def _judged(
    facts: Facts, cheat: Cheat, found: Sequence[Pair], tokens: int, *, reads: bool
) -> tuple[Cheat, _Judged | None, _Judged | None]:
    """By the statistical rule and the exact one, with the tables of the class that the seller states: an
    honest one."""
    served = cheat_answers(cheat, tokens)
    stated = replace(served, setting=BY_NAME[HONEST].setting)
    known = [*found, *(_q8_0_pairs(facts, tokens, reads=reads) if cheat.sold != SOLD else ())]
    judged: list[_Judged | None] = []
    exact = exact_checker(facts, stated)
    for rule, checker in zip(RULES, (STATISTICAL, exact), strict=True):
        table = _table_of(known, facts, stated, rule)
        if checker is None or table is None:
            judged.append(None)
            continue
        seen = read_again(served, checker, reads=reads)
        if not seen:
            judged.append(None)
            continue
        starts_inside = not cheat.name.startswith("tail")
        tried = power(table, [one.observations for one in seen], starts_inside=starts_inside)
        judged.append(_Judged(table=table, seen=seen, power=tried))
    return cheat, judged[0], judged[1]


def _power_of(judged: _Judged | None) -> Power | None:
    return judged.power if judged is not None else None


def _recorded(
    found: Sequence[Pair], rows: Sequence[tuple[Cheat, _Judged | None, _Judged | None]]
) -> Iterator[Recorded]:
    """What the test suite gets: every pair, and the cheats that are caught by each rule."""
    for pair in found:
        if pair.table is not None:
            seen = [one for _, answers in pair.sellers for one in answers]
            sellers = " + ".join(seller.setting.name for seller, _ in pair.sellers)
            name = f"honest: {sellers} / {pair.checker.name}, {pair.rule}"
            yield Recorded(name=name, is_honest=True, table=pair.table, seen=seen)
    for cheat, *both in rows:
        for rule, judged in zip(RULES, both, strict=True):
            if cheat.name in RECORDED[rule] and judged is not None:
                name = f"{cheat.name}, {rule}"
                yield Recorded(name=name, is_honest=False, table=judged.table, seen=judged.seen)


def _table_of(found: Sequence[Pair], facts: Facts, stated: Served, rule: Rule) -> NoiseTable | None:
    wanted = engine_class(facts.of(stated.sold, stated.setting))
    for pair in found:
        of_sold = pair.sellers[0][0].sold == stated.sold
        own_checker = rule == "exact" or pair.checker == STATISTICAL
        if of_sold and own_checker and (pair.rule, pair.seller_class) == (rule, wanted):
            return pair.table
    return None


def _q8_0_pairs(facts: Facts, tokens: int, *, reads: bool) -> list[Pair]:
    """Honest sellers of the Q8_0: who serves it as a Q4_1 serves it well as what it is."""
    answers = tuple(
        replace(answer, part="fit" if answer.number % 10 < FIT_OF_TEN else "held-out")
        for answer in cheat_answers(BY_NAME["q8_0"], tokens).answers
    )
    honest = Served(name="honest-q8_0", setting=BY_NAME[HONEST].setting, sold="q8_0", answers=answers)
    found = list(pairs(facts, [honest], STATISTICAL, "statistical", reads=reads))
    exact = exact_checker(facts, honest)
    return found if exact is None else [*found, *pairs(facts, [honest], exact, "exact", reads=reads)]


def _options() -> argparse.Namespace:
    made = argparse.ArgumentParser(prog="python -m bench.verify", description=__doc__)
    made.add_argument("--quick", action="store_true", help="a tenth of the tokens")
    made.add_argument("--tokens", type=int, default=0, help="of each seller, honest or not")
    made.add_argument("--kept", action="store_true", help="of what was read before, no more")
    made.add_argument("--rescore", action="store_true", help="read all kept answers again")
    made.add_argument("--write", action="store_true", help="into docs/verification.md and tests/vectors")
    made.add_argument("--json", type=Path, help="write every measurement to this file")
    return made.parse_args()


if __name__ == "__main__":
    sys.exit(main())
