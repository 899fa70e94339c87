"""What a buyer and a seller agree on for one request, as far as money goes."""

from dataclasses import dataclass

from unhosted.market.ids import ID_BYTES, ChannelId, RequestId
from unhosted.market.money import Micros, Price, cost_micros

PROMPT_TOKENS_MAX = 1 << 20
OUTPUT_TOKENS_MAX = 1 << 20
"""Four times the longest contexts that home machines hold: a bound on work, not on models."""

WINDOW_TOKENS_MAX = 4_096
"""Four times the largest window that the credit rule asks for: neither side risks more than one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """window_tokens: output tokens that are paid ahead, and that may stand unpaid at most (`credit`)."""

    request_id: RequestId
    channel_id: ChannelId
    price: Price
    tokens_in: int
    tokens_out_max: int
    window_tokens: int

    def __post_init__(self) -> None:
        check_size("request_id", self.request_id, ID_BYTES)
        check_size("channel_id", self.channel_id, ID_BYTES)
        check_range("tokens_in", self.tokens_in, 0, PROMPT_TOKENS_MAX)
        check_range("tokens_out_max", self.tokens_out_max, 1, OUTPUT_TOKENS_MAX)
        check_range("window_tokens", self.window_tokens, 1, WINDOW_TOKENS_MAX)

    @property
    def cost_micros_max(self) -> Micros:
        """What the request costs if every token that may come does."""
        return cost_micros(self.price, tokens_in=self.tokens_in, tokens_out=self.tokens_out_max)


def check_range(name: str, value: int, least: int, most: int) -> None:
    """Raises: ValueError."""
    if not least <= value <= most:
        raise ValueError(f"{name} {value} is outside {least} to {most}")


def check_size(name: str, value: bytes, size_bytes: int) -> None:
    """Raises: ValueError."""
    if len(value) != size_bytes:
        raise ValueError(f"{name} of {len(value)} bytes: {size_bytes} are needed")
