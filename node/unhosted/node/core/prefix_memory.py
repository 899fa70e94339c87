"""Which server read which beginning of a prompt lately, so that a next turn goes where its past is cached.

A prompt's canonical text is cut into blocks of equal size; each block's key hashes the block and the key
before it, so that one key stands for everything up to there. Only keys are kept. It is an estimate: the
server may have thrown its cache away, and what a template makes of a chat differs from our text; wrong
estimates cost time, never correctness.
"""

import hashlib
import json
from array import array
from collections import OrderedDict
from collections.abc import Sequence

from unhosted.node.core.asks import ChatPrompt
from unhosted.node.core.service import Message

BLOCK_CHARACTERS = 512
"""About 128 tokens: a shared beginning that is shorter is read in a few hundredths of a second."""

BLOCK_TOKENS = 128
"""Of a prompt of token ids."""

BLOCKS_MAX = 512
"""Of one prompt, 256 KiB of text: hashing more would take longer than a millisecond, and no choice hangs on
the rest."""

KEYS_MAX = 4_096
"""Remembered of one server and model: eight of the longest prompts, some hundreds of usual chats."""

SERVERS_MAX = 256
"""Servers times models, the longest unused forgotten first; 256 times 4,096 keys are about 100 MB at the
very most, and 1 MB in a house with three machines."""

LIFE_NS = 1_800_000_000_000
"""Half an hour: by then an idle engine is unloaded, and a busy one has read other things."""

_KEY_BYTES = 8


def block_keys(prompt: ChatPrompt | str | tuple[int, ...]) -> tuple[bytes, ...]:
    """One key per whole block of the prompt's beginning, at most `BLOCKS_MAX`."""
    blocks: Sequence[bytes]
    if isinstance(prompt, tuple):
        ids = array("q", prompt[: BLOCKS_MAX * BLOCK_TOKENS])
        size = BLOCK_TOKENS
        blocks = [ids[at : at + size].tobytes() for at in range(0, len(ids) - size + 1, size)]
    else:
        text = prompt if isinstance(prompt, str) else _chat_text(prompt)
        size = BLOCK_CHARACTERS
        last = min(len(text), BLOCKS_MAX * size) - size + 1
        blocks = [text[at : at + size].encode("utf-8", "surrogatepass") for at in range(0, last, size)]
    keys, before = [], b"ids" if isinstance(prompt, tuple) else b"text"
    for block in blocks:
        before = hashlib.blake2b(block, key=before, digest_size=_KEY_BYTES).digest()
        keys.append(before)
    return tuple(keys)


def estimated_tokens(prompt: ChatPrompt | str | tuple[int, ...]) -> int:
    """Exact for token ids; else a token for four characters, with a few for each message's frame."""
    if isinstance(prompt, tuple):
        return len(prompt)
    if isinstance(prompt, str):
        return len(prompt) // 4 + 1
    characters = sum(len(message.content) for message in prompt.messages)
    characters += sum(len(call.arguments) for message in prompt.messages for call in message.tool_calls)
    if prompt.tools:
        characters += len(_tools_text(prompt))
    return characters // 4 + 8 * len(prompt.messages) + 1


class PrefixMemory:
    """Keys by server and model, the latest used last."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], OrderedDict[bytes, int]] = OrderedDict()

    def note(self, server: str, model: str, keys: Sequence[bytes], now_ns: int) -> None:
        """The server has read a prompt with these blocks."""
        if not keys:
            return
        known = self._known.setdefault((server, model), OrderedDict())
        self._known.move_to_end((server, model))
        if len(self._known) > SERVERS_MAX:
            self._known.popitem(last=False)
        # The last block first: of a prompt that is half forgotten, the beginning is what is left.
        for key in reversed(keys):
            known[key] = now_ns
            known.move_to_end(key)
        while len(known) > KEYS_MAX:
            known.popitem(last=False)

    def cached_tokens(self, server: str, model: str, keys: Sequence[bytes], now_ns: int) -> int:
        """How many of the prompt's first tokens the server has probably cached."""
        known = self._known.get((server, model))
        if not known:
            return 0
        blocks = 0
        for key in keys:
            noted_at_ns = known.get(key)
            if noted_at_ns is None or now_ns - noted_at_ns > LIFE_NS:
                break
            blocks += 1
        return blocks * BLOCK_TOKENS

    def forget(self, server: str) -> None:
        """It was restarted or unpaired: nothing is cached there for us any more."""
        for key in [key for key in self._known if key[0] == server]:
            del self._known[key]


def _chat_text(chat: ChatPrompt) -> str:
    """Tools first, where most templates put them; then the turns, so that a next turn only adds."""
    turns = "".join(_turn_text(message) for message in chat.messages)
    return f"{_tools_text(chat)}{turns}"


def _turn_text(message: Message) -> str:
    calls = "".join(f"\x1d{call.name}\x1e{call.arguments}" for call in message.tool_calls)
    return f"\x1f{message.role}\x1e{message.content}{calls}"


def _tools_text(chat: ChatPrompt) -> str:
    return "".join(
        f"\x1c{tool.name}\x1e{tool.description}\x1e{json.dumps(tool.parameters, default=str)}"
        for tool in chat.tools
    )
