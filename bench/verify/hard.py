"""What needs no statistics: how many answers have a hard fault, honest ones and those with a forged end."""

from bench.verify.cheats import ANSWER_TOKENS, BY_NAME, HONEST, cheat_answers
from bench.verify.models import SOLD, model_path
from bench.verify.pairs import STATISTICAL
from bench.verify.scoring import Seen, read_again
from unhosted.node.shell.models.gguf import read_header
from unhosted.verify.hard_checks import Answer, check_answer

LOOKED_AT = (HONEST, "truncated")


def hard_rows(tokens: int, *, reads: bool) -> list[tuple[str, int, int, int, int]]:
    """For each cheat: its title, answers, tokens, answers with a fault, least margin of an end."""
    end = read_header(model_path(SOLD)).eos
    assert end is not None
    rows = []
    for name in LOOKED_AT:
        seen = read_again(cheat_answers(BY_NAME[name], tokens), STATISTICAL, reads=reads)
        faults = sum(bool(check_answer(_as_answer(one, end.token_id))) for one in seen)
        ends = [one.observations.margin_mlogit[-1] for one in seen if one.answer.finish == "stop"]
        delivered = sum(one.observations.tokens for one in seen)
        rows.append((BY_NAME[name].title, len(seen), delivered, faults, min(ends, default=0)))
    return rows


def _as_answer(one: Seen, end_id: int) -> Answer:
    ids = one.answer.output_ids
    return Answer(
        output_tokens=len(ids),
        finish=one.answer.finish,
        tokens_counted=len(ids),
        tokens_max=ANSWER_TOKENS,
        end_positions=tuple(place for place, token_id in enumerate(ids) if token_id == end_id),
        margin_mlogit=one.observations.margin_mlogit,
    )
