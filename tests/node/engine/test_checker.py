"""The checker on a real, tiny model: honest answers, dishonest ones, and being interrupted."""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.tiny import FIRST_BYTE_ID, IM_END_ID
from unhosted.node.core.engine_facts import Replay
from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import CheckedAnswer, CheckRequest, Constraint
from unhosted.node.shell.engine import check_plan
from unhosted.node.shell.engine.checker import Checked, Checker
from unhosted.node.shell.engine.grammar import build_mask
from unhosted.node.shell.engine.library import load_library
from unhosted.node.shell.engine.llama import Context, Model
from unhosted.node.shell.engine.sequence import LOCAL_CORE_HASH, AcceptingMask
from unhosted.verify.history import History
from unhosted.verify.observations import MARGIN_MLOGIT_MAX
from unhosted.verify.params import SamplingParams
from unhosted.verify.sampler import Sampler, request_key

pytestmark = pytest.mark.slow

CELLS = 4096
NOISE_MLOGIT = 20
"""The tiny model's weights are f16: one row and many are multiplied by different kernels."""


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Iterator[Model]:
    L = load_library()
    L.llama_backend_init()
    loaded = Model(L, str(tiny_model), gpu_layers=0)
    yield loaded
    loaded.close()


def mask_of(model: Model, constraint: Constraint) -> AcceptingMask:
    return build_mask(model.L, model.vocab, model.n_vocab, constraint)


def sampling(seed: int, **fields: Any) -> SamplingParams:
    return SamplingParams(**{"temperature": 0.9, "seed": bytes([seed]) * 32, **fields})


def honest(
    model: Model, prompt: tuple[int, ...], tokens: int, params: SamplingParams, constraint: Any = None
) -> CheckRequest:
    """An answer of so many tokens, drawn one by one."""
    context = Context(model, context_tokens=1024, sequences=1, batch_tokens=256, ubatch_tokens=256, threads=1)
    sampler, history = Sampler(params, request_key(LOCAL_CORE_HASH, params.seed)), History(params, prompt)
    mask = None if constraint is None else mask_of(model, constraint)
    output: list[int] = []
    feed, start = list(prompt), 0
    while len(output) < tokens:
        batch, count = context.batch, len(feed)
        batch.token[:count] = feed
        batch.position[:count] = np.arange(start, start + count)
        batch.sequence[:count] = 0
        batch.output[:count] = 0
        batch.output[count - 1] = 1
        assert context.decode(count) == 0
        output.append(sampler.draw(context.logits(1)[0], len(output), history, mask))
        history.push(output[-1])
        if mask is not None:
            mask.accept(output[-1])
            if output[-1] in model.end_ids:
                break
        feed, start = output[-1:], start + count
    if mask is not None:
        mask.close()
    context.close()
    return CheckRequest(
        prompt_ids=prompt, output_ids=tuple(output), sampling=params, constraint=constraint, ignore_eos=True
    )


def check(
    model: Model,
    requests: list[CheckRequest],
    *,
    cells_max: int = CELLS,
    is_wanted: Callable[[], bool] = lambda: False,
) -> list[CheckedAnswer]:
    checker = Checker(
        model,
        threads=1,
        rows_max=512,
        make_mask=lambda constraint: mask_of(model, constraint),
        is_wanted=is_wanted,
    )
    return finish(checker.check(requests, cells_max))


def finish(steps: Checked) -> list[CheckedAnswer]:
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return list(done.value)


PROMPTS = (tuple(range(10, 30)), tuple(range(40, 240)), (7,), tuple(range(100, 170)))


@pytest.fixture(scope="module")
def answers(model: Model) -> list[CheckRequest]:
    settings = (
        sampling(0),
        sampling(1, temperature=0.0),
        sampling(2, repeat_penalty=1.3, frequency_penalty=0.5, logit_bias=((50, 2.0),)),
        sampling(3, temperature=1.5, top_k=0, top_p=1.0, min_p=0.0),
    )
    return [
        honest(model, prompt, 40 + 50 * index, params)
        for index, (prompt, params) in enumerate(zip(PROMPTS, settings, strict=True))
    ]


@pytest.mark.parametrize(
    "replay",
    [
        Replay(),
        Replay(ubatch_tokens=32),
        Replay(ubatch_tokens=256, output_piece_tokens=16),
        Replay(ubatch_tokens=64, output_piece_tokens=1),
        Replay(flash_attention=False),
    ],
    ids=str,
)
def test_honest_answers_are_within_noise_in_every_shape(
    model: Model, answers: list[CheckRequest], replay: Replay
) -> None:
    # Cells for fewer answers at once than there are: the others follow in the same sequences.
    checked = check(model, [replace(one, replay=replay) for one in answers], cells_max=1024)
    for request, answer in zip(answers, checked, strict=True):
        assert answer.seen.tokens == len(answer.drawn_ids) == len(request.output_ids)
        assert max(answer.seen.margin_mlogit) <= NOISE_MLOGIT
        assert answer.seen.mismatches <= 0.1 * answer.seen.tokens
        drawn = zip(answer.drawn_ids, request.output_ids, answer.seen.is_match, strict=True)
        assert all((mine == claimed) == is_match for mine, claimed, is_match in drawn)


def test_answers_of_different_shapes_come_back_in_their_order(
    model: Model, answers: list[CheckRequest]
) -> None:
    mixed = [
        replace(one, replay=Replay(ubatch_tokens=32 if index % 2 else 64))
        for index, one in enumerate(answers)
    ]
    assert [one.seen.tokens for one in check(model, mixed)] == [len(one.output_ids) for one in answers]


def test_a_wrong_seed_another_prompt_and_another_temperature_show(
    model: Model, answers: list[CheckRequest]
) -> None:
    request = answers[3]
    cheats = [
        replace(request, sampling=sampling(9, temperature=1.5, top_k=0, top_p=1.0, min_p=0.0)),
        replace(request, prompt_ids=(*request.prompt_ids[:-1], 11)),
        replace(request, sampling=replace(request.sampling, temperature=1.0)),
        replace(request, output_ids=(*request.output_ids[:50], 5, *request.output_ids[51:])),
    ]
    # One token more or less at the start and every later position is read with another number.
    cheats.append(replace(request, output_ids=request.output_ids[1:]))
    honest_mean = np.mean(check(model, [request])[0].seen.margin_mlogit)
    for answer in check(model, cheats):
        assert np.mean(answer.seen.margin_mlogit) > 20 * honest_mean + 5


def test_an_interrupted_check_gives_what_an_undisturbed_one_gives(
    model: Model, answers: list[CheckRequest]
) -> None:
    replay = Replay(ubatch_tokens=16)  # the shape that interruptions lead to: rounding is the same then
    requests = [replace(one, replay=replay) for one in answers]
    undisturbed = check(model, requests)
    draw = random.Random(5)
    interruptions = 0

    def now_and_then() -> bool:
        nonlocal interruptions
        is_wanted = draw.random() < 0.01
        interruptions += is_wanted
        return is_wanted

    assert check(model, requests, is_wanted=now_and_then) == undisturbed
    assert interruptions > 10


def test_a_check_that_is_interrupted_at_every_step_waits_and_changes_nothing(
    model: Model, answers: list[CheckRequest]
) -> None:
    is_wanted = True
    checker = Checker(
        model,
        threads=1,
        rows_max=512,
        make_mask=lambda constraint: mask_of(model, constraint),
        is_wanted=lambda: is_wanted,
    )
    steps = checker.check([replace(answers[0], replay=Replay(ubatch_tokens=16))], CELLS)
    for _ in range(50):
        next(steps)
    is_wanted = False
    assert finish(steps) == check(model, [replace(answers[0], replay=Replay(ubatch_tokens=16))])


def test_a_state_that_cannot_be_taken_back_is_read_again_and_nothing_is_scored_twice(
    model: Model, answers: list[CheckRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a recurrent model, whose memory only forgets everything."""
    requests = [replace(one, replay=Replay(ubatch_tokens=16)) for one in (answers[0], answers[2])]
    undisturbed = check(model, requests)
    keep_cells = Context.keep_cells
    refusals = 0

    def keep_none(self: Context, slot: int, tokens: int) -> bool:
        nonlocal refusals
        refusals += tokens > 0
        return tokens == 0 and keep_cells(self, slot, 0)

    monkeypatch.setattr(Context, "keep_cells", keep_none)
    draw = random.Random(6)
    found = check(model, requests, is_wanted=lambda: draw.random() < 0.004)
    assert refusals > 2
    # Read again from the start in other pieces, which some builds round otherwise: by thousandths of a nat.
    for one, before in zip(found, undisturbed, strict=True):
        assert (one.text, one.end_positions) == (before.text, before.end_positions)
        pairs = zip(one.seen.logprob_mnat, before.seen.logprob_mnat, strict=True)
        assert max(abs(mine - other) for mine, other in pairs) <= 100


def test_a_check_may_be_left_at_any_step(model: Model, answers: list[CheckRequest]) -> None:
    checker = Checker(
        model, threads=1, rows_max=512, make_mask=lambda c: mask_of(model, c), is_wanted=lambda: False
    )
    for steps_taken in (0, 1, 3):
        steps = checker.check(answers, CELLS)
        for _ in range(steps_taken):
            next(steps)
        steps.close()
    assert check(model, answers[:1])[0].seen.mismatches <= 4


def test_a_constrained_answer_is_checked_with_its_grammar(model: Model) -> None:
    constraint = Constraint(kind="gbnf", source='root ::= ("ab" | "cd" | "x" [0-9]{4} "; "){8}')
    request = honest(model, PROMPTS[0], 100, sampling(4, temperature=1.3), constraint)
    answer, free, strayed, after = check(
        model,
        [
            request,
            replace(request, constraint=None),
            replace(request, output_ids=(FIRST_BYTE_ID + ord("z"), *request.output_ids[1:])),
            request,
        ],
    )
    assert max(answer.seen.margin_mlogit) <= NOISE_MLOGIT and answer.end_positions
    assert after == answer
    assert free.seen.mismatches > answer.seen.tokens // 2
    assert strayed.seen.margin_mlogit[0] == MARGIN_MLOGIT_MAX and strayed.seen.tokens == answer.seen.tokens


def test_text_and_ends_are_told(model: Model) -> None:
    output = (*(FIRST_BYTE_ID + byte for byte in "héé".encode()), IM_END_ID, FIRST_BYTE_ID + 65, IM_END_ID)
    request = CheckRequest(prompt_ids=(5,), output_ids=output, sampling=sampling(0))
    (answer,) = check(model, [request])
    assert (answer.text, answer.end_positions) == ("hééA", (5, 7))


def test_ids_that_the_model_lacks_are_told_and_not_scored(model: Model, answers: list[CheckRequest]) -> None:
    for position, strange in ((0, model.n_vocab), (7, -1), (39, 2**31)):
        output = list(answers[0].output_ids)
        output[position] = strange
        beside, answer = check(model, [answers[0], replace(answers[0], output_ids=tuple(output))])
        assert (answer.out_of_range, answer.seen.tokens, answer.text) == (position, 0, "")
        assert beside.out_of_range is None and beside.seen.tokens == 40


def test_an_empty_answer_has_nothing_to_see(model: Model) -> None:
    (answer,) = check(model, [CheckRequest(prompt_ids=(5,), output_ids=(), sampling=sampling(0))])
    assert (answer.seen.tokens, answer.text, answer.out_of_range) == (0, "", None)


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"prompt_ids": ()}, "invalid_request", "no prompt"),
        ({"prompt_ids": (1, 512)}, "invalid_request", "512"),
        ({"sampling": SamplingParams(logit_bias=((9999, 1.0),))}, "invalid_request", "9999"),
        ({"output_ids": (5,) * 3000}, "context_length_exceeded", "3001"),
        ({"replay": Replay(kv_type="q9_9")}, "not_supported", "q9_9"),
        ({"replay": Replay(ubatch_tokens=0)}, "not_supported", "0"),
        ({"replay": Replay(ubatch_tokens=1 << 20)}, "not_supported", "1048576"),
        ({"replay": Replay(output_piece_tokens=0)}, "not_supported", "0"),
    ],
)
def test_what_cannot_be_read_is_refused_before_anything_is_computed(
    model: Model, fields: dict[str, Any], code: str, words: str
) -> None:
    checker = Checker(
        model, threads=1, rows_max=512, make_mask=lambda c: mask_of(model, c), is_wanted=lambda: False
    )
    request = CheckRequest(**{"prompt_ids": (5,), "output_ids": (6,), "sampling": sampling(0), **fields})
    with pytest.raises(Refused) as refused:
        checker.check([request], 1 << 20)
    assert refused.value.code == code and words in refused.value.message


def test_a_cache_that_the_library_cannot_make_for_this_model_is_refused(model: Model) -> None:
    """Heads of 16 numbers do not fill a block of 32."""
    replay = Replay(kv_type="q8_0")
    request = CheckRequest(prompt_ids=(5,), output_ids=(6,), sampling=sampling(0), replay=replay)
    with pytest.raises(Refused, match="q8_0") as refused:
        check(model, [request])
    assert refused.value.code == "engine_failed"


def test_logits_of_few_rows_exist_at_once(
    model: Model, answers: list[CheckRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_plan, "OUTPUT_BYTES_MAX", 32 * 4 * model.n_vocab)
    rows_seen: list[int] = []
    logits = Context.logits

    def seen(self: Context, rows: int) -> NDArray[np.float32]:
        rows_seen.append(rows)
        return logits(self, rows)

    monkeypatch.setattr(Context, "logits", seen)
    checked = check(model, answers)
    assert max(rows_seen) == 32
    assert [one.seen.tokens for one in checked] == [len(one.output_ids) for one in answers]
