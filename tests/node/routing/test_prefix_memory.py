"""Who read which beginning of a prompt."""

from hypothesis import given, settings
from hypothesis import strategies as st

from unhosted.node.core.asks import ChatPrompt
from unhosted.node.core.prefix_memory import (
    BLOCK_CHARACTERS,
    BLOCK_TOKENS,
    BLOCKS_MAX,
    KEYS_MAX,
    LIFE_NS,
    SERVERS_MAX,
    PrefixMemory,
    block_keys,
    estimated_tokens,
)
from unhosted.node.core.service import Message, Tool, ToolCall

LONG = "".join(f"line {number}\n" for number in range(2000))


def chat(*contents: str, tools: tuple[Tool, ...] = ()) -> ChatPrompt:
    roles = ("system", "user", "assistant")
    messages = tuple(
        Message(role=roles[min(at, 1 + at % 2)], content=content) for at, content in enumerate(contents)
    )
    return ChatPrompt(messages=messages, tools=tools)


def cached(memory: PrefixMemory, prompt: ChatPrompt | str | tuple[int, ...], now_ns: int = 0) -> int:
    return memory.cached_tokens("a", "m", block_keys(prompt), now_ns)


def test_a_next_turn_finds_its_past() -> None:
    memory = PrefixMemory()
    memory.note("a", "m", block_keys(chat("Be brief.", LONG)), 0)
    found = cached(memory, chat("Be brief.", LONG, "Yes.", "Why?"))
    assert found >= (len(LONG) // BLOCK_CHARACTERS - 1) * BLOCK_TOKENS
    assert memory.cached_tokens("b", "m", block_keys(chat("Be brief.", LONG)), 0) == 0
    assert memory.cached_tokens("a", "other", block_keys(chat("Be brief.", LONG)), 0) == 0


def test_another_beginning_shares_nothing() -> None:
    memory = PrefixMemory()
    memory.note("a", "m", block_keys("x" + LONG), 0)
    assert cached(memory, "y" + LONG) == 0


def test_a_block_counts_only_after_what_it_was_read_after() -> None:
    a, b, c, d = ((number,) * BLOCK_TOKENS for number in range(4))
    memory = PrefixMemory()
    memory.note("a", "m", block_keys((*a, *b)), 0)
    memory.note("a", "m", block_keys((*c, *d)), 0)
    assert cached(memory, (*a, *d)) == BLOCK_TOKENS


def test_tools_stand_at_the_beginning_and_count() -> None:
    tool = Tool(name="t", description=LONG, parameters={"type": "object"})
    assert block_keys(chat("a", LONG)) != block_keys(chat("a", LONG, tools=(tool,)))
    assert estimated_tokens(chat("a", tools=(tool,))) > len(LONG) // 4


def test_text_and_ids_are_not_mixed_up() -> None:
    assert block_keys(tuple(range(1000)))[0] not in block_keys(LONG)


def test_what_was_read_long_ago_is_not_counted_on() -> None:
    memory = PrefixMemory()
    memory.note("a", "m", block_keys(LONG), 0)
    assert cached(memory, LONG, LIFE_NS) > 0
    assert cached(memory, LONG, LIFE_NS + 1) == 0


def test_a_restarted_server_has_forgotten() -> None:
    memory = PrefixMemory()
    memory.note("a", "m", block_keys(LONG), 0)
    memory.forget("a")
    assert cached(memory, LONG) == 0


def test_tables_are_bounded_and_the_beginning_is_kept_longest() -> None:
    memory = PrefixMemory()
    first = tuple(range(BLOCKS_MAX * BLOCK_TOKENS * 2))
    assert len(block_keys(first)) == BLOCKS_MAX
    for number in range(KEYS_MAX // BLOCKS_MAX + 3):
        memory.note("a", "m", block_keys(tuple(range(number, number + BLOCKS_MAX * BLOCK_TOKENS))), number)
    assert cached(memory, first) == 0
    short = PrefixMemory()
    short.note("a", "m", [number.to_bytes(8, "little") for number in range(KEYS_MAX + 5)], 0)
    assert short.cached_tokens("a", "m", [(0).to_bytes(8, "little")], 0) == BLOCK_TOKENS
    for number in range(SERVERS_MAX):
        memory.note(f"peer-{number}", "m", [b"key"], 0)
    assert cached(memory, tuple(range(5, 5 + BLOCK_TOKENS))) == 0


TAILS = st.lists(st.integers(0, 1), max_size=200)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(0, 500), TAILS, TAILS)
def test_the_estimate_is_the_common_beginning_in_whole_blocks(
    shared: int, left_tail: list[int], right_tail: list[int]
) -> None:
    left, right = (*range(shared), *left_tail), (*range(shared), *right_tail)
    memory = PrefixMemory()
    memory.note("a", "m", block_keys(left), 0)
    common = 0
    while common < min(len(left), len(right)) and left[common] == right[common]:
        common += 1
    assert cached(memory, right) == common // BLOCK_TOKENS * BLOCK_TOKENS


def test_estimates_count_what_is_there() -> None:
    assert estimated_tokens((1, 2, 3)) == 3
    assert 900 < estimated_tokens("word " * 800) < 1100
    call = ToolCall(call_id="1", name="t", arguments="x" * 4000)
    spoken = ChatPrompt(messages=(Message(role="assistant", tool_calls=(call,)),))
    assert estimated_tokens(spoken) > 1000
    assert len(block_keys(spoken)) == 7
