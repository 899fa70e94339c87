"""What a request asks of the sampler `gumbel-v1`. No numpy here: the node reads these without loading it."""

import math
from dataclasses import dataclass

TOP_K_MAX = 1024
"""Survivors are capped: a checker hashes once per survivor, and a request must stay cheap to check."""

LOGIT_BIAS_ENTRIES_MAX = 1024
SEED_BYTES = 32


class ParameterError(ValueError):
    """One sampling parameter is outside its range; `field` names it as the API spells it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.rule = message


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Parameters of one draw; every one is a deterministic function's argument, none is state.

    temperature: 0 is greedy. top_k: 0 means `TOP_K_MAX`. top_p, min_p: probabilities at temperature 1.
    repeat_penalty divides or multiplies the logits of ids seen in the last `repeat_last_tokens`
    (prompt and output); frequency and presence penalties are subtracted, counted over the output alone.
    logit_bias: (token id, logits to add) pairs, ids ascending. seed: 32 bytes chosen by the buyer.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    repeat_last_tokens: int = 64
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: bytes = bytes(SEED_BYTES)

    def __post_init__(self) -> None:
        _check_range("temperature", self.temperature, 0.0, 5.0)
        _check_range("top_p", self.top_p, 0.0, 1.0)
        _check_range("min_p", self.min_p, 0.0, 1.0)
        _check_range("repeat_penalty", self.repeat_penalty, 0.1, 10.0)
        _check_range("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _check_range("presence_penalty", self.presence_penalty, -2.0, 2.0)
        if self.top_k < 0:
            raise ParameterError("top_k", f"{self.top_k} is below 0")
        if not 0 <= self.repeat_last_tokens <= 4096:
            raise ParameterError("repeat_last_tokens", f"{self.repeat_last_tokens} is outside 0 to 4096")
        if len(self.seed) != SEED_BYTES:
            raise ParameterError("seed", f"{len(self.seed)} bytes, must be {SEED_BYTES}")
        if len(self.logit_bias) > LOGIT_BIAS_ENTRIES_MAX:
            raise ParameterError(
                "logit_bias", f"{len(self.logit_bias)} entries, at most {LOGIT_BIAS_ENTRIES_MAX}"
            )
        for token_id, bias in self.logit_bias:
            _check_range(f"logit_bias[{token_id}]", bias, -100.0, 100.0)

    @property
    def has_penalties(self) -> bool:
        return self.repeat_penalty != 1.0 or self.frequency_penalty != 0.0 or self.presence_penalty != 0.0


def _check_range(field: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise ParameterError(field, f"{value} is outside {low:g} to {high:g}")
