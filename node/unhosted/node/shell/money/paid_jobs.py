"""What a seller sells, and one request that it is working on."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import NamedTuple

import trio

from unhosted.market.ids import ModelHash
from unhosted.market.money import Price
from unhosted.market.offers import CheckClass
from unhosted.market.receipts import FinishReason, SignedReceipt
from unhosted.market.roots import GrowingIds
from unhosted.node.core.engine_facts import EngineFacts
from unhosted.node.shell.money.paid_wire import WorkAsked


class Piece(NamedTuple):
    """Some tokens of an answer; the last piece, which may have none, says why the answer ends there."""

    ids: Sequence[int]
    finish: FinishReason | None = None


Work = Callable[[WorkAsked], AbstractAsyncContextManager[AsyncIterator[Piece]]]
"""Entered when it is paid for; gives the answer in pieces, drawn as the request says. Leaving cancels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sale:
    """What is sold. seller: this node's peer id, which requests name. facts: how the engine rounds.

    check: how an answer can be checked.
    """

    seller: str
    price: Price
    model: ModelHash
    facts: EngineFacts
    check: CheckClass
    work: Work


@dataclass(slots=True, kw_only=True)
class Job:
    """A request under way. made: all ids of the answer, in order. finish: as the engine said."""

    ask: WorkAsked
    made: GrowingIds
    released: int = 0
    acknowledged: int = 0
    finish: FinishReason | None = None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    moved: trio.Event = field(default_factory=trio.Event)
    receipt: SignedReceipt | None = None


def job_of(ask: WorkAsked) -> Job:
    return Job(ask=ask, made=GrowingIds("output", salt=ask.salt))
