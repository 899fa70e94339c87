"""Honest sellers under each checker, as the product pairs them, and the table that each pair gets.

Sellers whose engines are of one class share a table: it is fitted on the prompts that are for fitting, all
their answers together, and each of them is judged on its own on the prompts that are held out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import trio
from blake3 import blake3

from bench.verify.corpus import USUAL, Served
from bench.verify.models import model_path
from bench.verify.scoring import Seen, read_again
from unhosted.market.offers import CheckClass
from unhosted.node.core.engine_facts import EngineFacts, Replay, engine_class, replay_for
from unhosted.node.shell.calibrating.measuring import facts_of
from unhosted.node.shell.calibrating.settings import CheckerSetting, Setting
from unhosted.verify.fitting import FitError, fit
from unhosted.verify.noise import NoiseTable, Rule
from unhosted.verify.observations import Observations

STATISTICAL = CheckerSetting(name="usual", engine=USUAL)
OTHER_LIBRARY = "other library 1"
NO_FLASH = CheckerSetting(
    name="no flash attention",
    engine=replace(USUAL, name="no flash attention", flash_attention=False),
    replay=Replay(flash_attention=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """sellers: of one engine class, each with its answers as the checker sees them.

    table: None where none can be fitted; refusal says why.
    """

    rule: Rule
    checker: CheckerSetting
    seller_class: str
    checker_class: str
    sellers: tuple[tuple[Served, tuple[Seen, ...]], ...]
    table: NoiseTable | None
    refusal: str = ""


def other_library(path: Path) -> CheckerSetting:
    """A checker with another build of the library; its engine is named as such a seller is."""
    return CheckerSetting(name="other library", engine=replace(USUAL, name=OTHER_LIBRARY, library=str(path)))


class Facts:
    """What engines say of themselves, each asked once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, Setting], EngineFacts] = {}

    def of(self, sold: str, setting: Setting) -> EngineFacts:
        key = (sold, replace(setting, name="", warms_prefix=False))
        if key not in self._known:
            self._known[key] = trio.run(facts_of, model_path(sold), setting)
        return self._known[key]


def exact_checker(facts: Facts, seller: Served) -> CheckerSetting | None:
    """How the product would read this seller's answers exactly; None where the class does not hold."""
    checked, replay = _way(facts, seller, USUAL)
    if checked != "exact":
        return None
    name = f"exact {replay.kv_type.replace('/', '-')}"
    return CheckerSetting(name=name, engine=USUAL, replay=replay)


def pairs(
    facts: Facts, sellers: Sequence[Served], checker: CheckerSetting, rule: Rule, *, reads: bool
) -> tuple[Pair, ...]:
    """One for each engine class among the sellers. reads: as for `read_again`."""
    by_class: dict[str, list[Served]] = {}
    for seller in sellers:
        by_class.setdefault(engine_class(facts.of(seller.sold, seller.setting)), []).append(seller)
    own = facts.of(sellers[0].sold, checker.engine)
    own = replace(own, kv_type=checker.replay.kv_type, flash_attention=checker.replay.flash_attention)
    found = []
    for seller_class, members in by_class.items():
        each = ((member, read_again(member, checker, reads=reads)) for member in members)
        seen = tuple((member, answers) for member, answers in each if answers)
        if not seen:
            continue
        table, refusal = _fitted(seen, own, seller_class, rule)
        found.append(
            Pair(
                rule=rule,
                checker=checker,
                seller_class=seller_class,
                checker_class=engine_class(own),
                sellers=seen,
                table=table,
                refusal=refusal,
            )
        )
    return tuple(found)


def of_part(seen: Sequence[Seen], part: str) -> list[Observations]:
    return [one.observations for one in seen if one.answer.part == part and one.observations.tokens]


def _fitted(
    seen: Sequence[tuple[Served, Sequence[Seen]]], own: EngineFacts, seller_class: str, rule: Rule
) -> tuple[NoiseTable | None, str]:
    everything = [one for _, answers in seen for one in answers]
    try:
        return fit(
            model=blake3(model_path(seen[0][0].sold).read_bytes()).digest(),
            seller_class=seller_class,
            checker_class=engine_class(own),
            library=own.library,
            rule=rule,
            honest=of_part(everything, "fit"),
            held_out=of_part(everything, "held-out"),
        ), ""
    except FitError as error:
        return None, str(error)


def _way(facts: Facts, seller: Served, engine: Setting) -> tuple[CheckClass, Replay]:
    return replay_for(facts.of(seller.sold, seller.setting), facts.of(seller.sold, engine))
