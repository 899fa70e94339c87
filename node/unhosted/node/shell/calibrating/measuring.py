"""Reads answers again under a checker's setting, and tries what an honest engine would never give."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from pathlib import Path

from unhosted.node.core.engine_facts import EngineFacts, Replay
from unhosted.node.core.inference import CheckRequest
from unhosted.node.shell.calibrating.answers import Answer, running_engine
from unhosted.node.shell.calibrating.settings import CHEAT_CACHE_NAME, CheckerSetting, Setting
from unhosted.node.shell.engine.host import EngineHost
from unhosted.verify.observations import Observations
from unhosted.verify.params import SamplingParams

CHECK_CELLS_MAX = 16_384
"""Of context over the answers of one call, as in a node: two long ones, or some forty short ones."""

CHECK_ANSWERS_MAX = 16
"""Of one call: progress is seen, and little is lost when it is stopped."""

CONTEXT_TOKENS_MIN = 256
"""Of the slot that the checker's engine has for generating, which it never does here."""

TEMPERATURE_SHIFT = 0.2

Claim = Callable[[SamplingParams], SamplingParams | None]
"""What an answer's sampling is claimed to have been; None where the claim cannot be made of it."""


def honest(sampling: SamplingParams) -> SamplingParams:
    return sampling


def other_seed(sampling: SamplingParams) -> SamplingParams | None:
    """The claim of a seller that drew with a seed of its own. At temperature 0 no seed is used."""
    if sampling.temperature == 0:
        return None
    return replace(sampling, seed=bytes(255 - byte for byte in sampling.seed))


def cooler(sampling: SamplingParams) -> SamplingParams | None:
    """The claim of a seller that sampled hotter than it was asked to, by TEMPERATURE_SHIFT."""
    if sampling.temperature <= TEMPERATURE_SHIFT:
        return None
    return replace(sampling, temperature=round(sampling.temperature - TEMPERATURE_SHIFT, 6))


CONTROLS: dict[str, Claim] = {"other seed": other_seed, "0.2 hotter": cooler, CHEAT_CACHE_NAME: honest}
"""Cheats that every table is tried on, and what is claimed of the answers."""


async def score(
    model: Path,
    checker: CheckerSetting,
    answers: Sequence[Answer],
    scored: Callable[[Answer, Observations], None],
    *,
    claim: Claim = honest,
) -> None:
    """Read the answers under the setting; `scored` gets each with what was seen. Raises: Refused."""
    async with running_checker(model, checker.engine) as host:
        await score_with(host, checker.replay, answers, scored, claim=claim)


def running_checker(model: Path, engine: Setting) -> AbstractAsyncContextManager[EngineHost]:
    """An engine that reads answers again and generates none: one small slot."""
    return running_engine(model, replace(engine, slots=1), context_tokens=CONTEXT_TOKENS_MIN)


class LazyChecker:
    """An engine that reads answers again: started when it is first needed, ended with the stack."""

    def __init__(self, model: Path, engine: Setting, stack: AsyncExitStack) -> None:
        self._model = model
        self._engine = engine
        self._stack = stack
        self._host: EngineHost | None = None

    async def host(self) -> EngineHost:
        """Raises: Refused."""
        if self._host is None:
            self._host = await self._stack.enter_async_context(running_checker(self._model, self._engine))
        return self._host


async def score_with(
    host: EngineHost,
    replay: Replay,
    answers: Sequence[Answer],
    scored: Callable[[Answer, Observations], None],
    *,
    claim: Claim = honest,
) -> None:
    """`score` on an engine that runs already."""
    claimed = [(answer, sampling) for answer in answers if (sampling := claim(answer.sampling)) is not None]
    for group in _groups(claimed):
        requests = [
            CheckRequest(
                prompt_ids=answer.prompt_ids,
                output_ids=answer.output_ids,
                sampling=sampling,
                replay=replay,
            )
            for answer, sampling in group
        ]
        checked = await host.check(requests, CHECK_CELLS_MAX)
        for (answer, _), one in zip(group, checked, strict=True):
            scored(answer, one.seen)


async def facts_of(model: Path, setting: Setting) -> EngineFacts:
    """What an engine under the setting says of itself. Raises: Refused."""
    async with running_engine(model, setting, context_tokens=CONTEXT_TOKENS_MIN) as host:
        return host.facts


def _groups(
    claimed: Sequence[tuple[Answer, SamplingParams]],
) -> Iterator[list[tuple[Answer, SamplingParams]]]:
    """Of similar length: an engine gives every answer of a call the context of the longest."""
    group: list[tuple[Answer, SamplingParams]] = []
    for pair in sorted(claimed, key=lambda one: _cells(one[0])):
        if group and (
            len(group) == CHECK_ANSWERS_MAX or _cells(pair[0]) * (len(group) + 1) > CHECK_CELLS_MAX
        ):
            yield group
            group = []
        if pair[0].output_ids:
            group.append(pair)
    if group:
        yield group


def _cells(answer: Answer) -> int:
    return len(answer.prompt_ids) + len(answer.output_ids)
