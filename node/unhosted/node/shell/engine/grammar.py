"""A request's constraint as a mask over token ids, walked along with the output by llama.cpp's grammar.

llama.cpp ends the process when it is given a token that its grammar refuses, or one past the end. So each
token is asked about before it is handed over, here and not by the caller's discipline. A trigger is also
watched for here, not with llama.cpp's lazy grammars: those search all text so far with std::regex at every
token, which takes quadratic time and, on long texts, the stack.

A token counts as the bytes it spells in the output. Control tokens spell none; a grammar that is under way
refuses them, except those that end the output, which are allowed exactly when the grammar is complete.
"""

import ctypes
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import Constraint
from unhosted.node.core.json_grammar import any_object_gbnf
from unhosted.node.core.json_schema import schema_to_gbnf

GBNF_CHARS_MAX = 512 * 1024
"""Enough for a schema of the greatest size, unless its constants are long; parsing it takes tens of ms."""

GBNF_GROUPS_MAX = 100
"""llama.cpp's parser recurses into each group, on the C stack."""

_PIECE_BYTES = 256
_CANDIDATE = np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])
_QUOTED = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|#[^\n]*', re.DOTALL)
_ROOT = re.compile(r"(?:^|\n)\s*root\s*::=")


class GrammarMask:
    """What one sequence may write next. Not for use from two threads; `close` frees llama.cpp's memory."""

    def __init__(
        self, L: ModuleType, vocab: Any, n_vocab: int, sampler: Any, trigger: bytes, tail: bytes = b""
    ) -> None:
        self._L = L
        self._vocab = vocab
        self._n_vocab = n_vocab
        self._sampler = sampler
        self._trigger = trigger  # empty once the grammar is under way
        self._tail = tail  # the last bytes of the text, which may be a trigger's beginning

    def allows(self, token_id: int) -> bool:
        """Whether the token may come next. About 10 us."""
        if self._trigger:
            started = self._start_with(token_id)
            if started is None:
                return self._completed_by(token_id) == b""
            self._L.llama_sampler_free(started)
            return True
        return bool(self.mask_ids(np.array([token_id], np.int32))[0])

    def mask_ids(self, ids: NDArray[np.int32]) -> NDArray[np.bool_]:
        """For each id whether it may come next."""
        if self._trigger:
            return np.array([self.allows(token_id) for token_id in ids.tolist()], np.bool_)
        allowed = _allowed(self._L, self._sampler, ids)
        is_control, is_end = self._L.llama_vocab_is_control, self._L.llama_vocab_is_eog
        for index in np.flatnonzero(allowed).tolist():
            token_id = int(ids[index])
            if is_control(self._vocab, token_id) and not is_end(self._vocab, token_id):
                allowed[index] = False
        return allowed

    def accept(self, token_id: int) -> None:
        """Walk on by one token. An end token changes nothing.

        Raises: Refused (invalid_request) if the token is not allowed; then nothing has changed.
        """
        if not 0 <= token_id < self._n_vocab or not self.allows(token_id):
            raise Refused("invalid_request", f"token {token_id} breaks the request's grammar: start afresh")
        if self._L.llama_vocab_is_eog(self._vocab, token_id):
            return
        if not self._trigger:
            self._L.llama_sampler_accept(self._sampler, token_id)
            return
        started = self._start_with(token_id)
        if started is not None:
            self._L.llama_sampler_free(self._sampler)
            self._sampler, self._trigger, self._tail = started, b"", b""
        else:
            text = self._tail + _spelled(self._L, self._vocab, token_id)
            self._tail = text[max(0, len(text) - len(self._trigger) + 1) :]

    def clone(self) -> "GrammarMask":
        """The same state, to walk on its own; closed on its own too."""
        sampler = self._L.llama_sampler_clone(self._sampler)
        return GrammarMask(self._L, self._vocab, self._n_vocab, sampler, self._trigger, self._tail)

    def close(self) -> None:
        if self._sampler is not None:
            self._L.llama_sampler_free(self._sampler)
            self._sampler = None

    def _completed_by(self, token_id: int) -> bytes:
        """The text from the trigger on, if this token completes it; else empty."""
        text = self._tail + _spelled(self._L, self._vocab, token_id)
        start = text.find(self._trigger)
        return text[start:] if start >= 0 else b""

    def _start_with(self, token_id: int) -> Any | None:
        """A grammar that has read the trigger and what the token spells after it; None if it cannot."""
        text = self._completed_by(token_id)
        if not text:
            return None
        sampler = self._L.llama_sampler_clone(self._sampler)
        for part in _spelling(self._L, self._vocab, text):
            if not _allowed(self._L, sampler, np.array([part], np.int32))[0]:
                self._L.llama_sampler_free(sampler)
                return None
            self._L.llama_sampler_accept(sampler, part)
        return sampler


def build_mask(L: ModuleType, vocab: Any, n_vocab: int, constraint: Constraint) -> GrammarMask:
    """A mask at the start of the output. L: llama.cpp's low-level bindings; vocab: its vocabulary's pointer.

    Raises: Refused (invalid_request) if the schema cannot be enforced or the grammar is not one.
    """
    gbnf = _gbnf_of(constraint)
    if len(gbnf) > GBNF_CHARS_MAX:
        raise _refused(f"{len(gbnf)} characters, at most {GBNF_CHARS_MAX}")
    try:
        source = gbnf.encode()
    except UnicodeEncodeError as fault:
        raise _refused(f"half a surrogate pair stands in it, at character {fault.start}") from fault
    with _stderr_held() as held:
        sampler = L.llama_sampler_init_grammar(vocab, source, b"root")
    if not sampler:
        raise _refused(_parser_fault(held) or "it is left-recursive or empty")
    trigger = (constraint.trigger or "").encode()
    mask = GrammarMask(L, vocab, n_vocab, sampler, trigger)
    if trigger:
        for part in _spelling(L, vocab, trigger):
            if not _allowed(L, sampler, np.array([part], np.int32))[0]:
                mask.close()
                raise _refused(f"it does not begin with its trigger {constraint.trigger!r}")
            L.llama_sampler_accept(sampler, part)
        # Back to the start: the walk above was only to see that the trigger fits.
        L.llama_sampler_reset(sampler)
    return mask


def _gbnf_of(constraint: Constraint) -> str:
    match constraint.kind:
        case "json_object":
            return any_object_gbnf()
        case "json_schema":
            try:
                schema = json.loads(constraint.source)
            except (ValueError, RecursionError) as fault:
                raise Refused(
                    "invalid_request", f"the JSON schema is not JSON: {fault}", field="response_format"
                ) from fault
            return schema_to_gbnf(schema)
        case "gbnf":
            gbnf = constraint.source
    bare = _QUOTED.sub("", gbnf)
    if "\0" in gbnf or not _ROOT.search(bare):
        raise _refused("it has no rule named root")
    depth = deepest = 0
    for char in bare:
        depth += (char == "(") - (char == ")")
        deepest = max(deepest, depth)
    if deepest > GBNF_GROUPS_MAX:
        raise _refused(f"groups are nested {deepest} deep, at most {GBNF_GROUPS_MAX}")
    return gbnf


def _refused(fault: str) -> Refused:
    return Refused("invalid_request", f"the grammar cannot be used: {fault}; correct it", field="grammar")


def _allowed(L: ModuleType, sampler: Any, ids: NDArray[np.int32]) -> NDArray[np.bool_]:
    candidates = np.zeros(len(ids), _CANDIDATE)
    candidates["id"] = ids
    array = L.llama_token_data_array()
    array.data = ctypes.cast(candidates.ctypes.data, ctypes.POINTER(L.llama_token_data))
    array.size = len(ids)
    array.selected = -1
    array.sorted = False
    L.llama_sampler_apply(sampler, ctypes.byref(array))
    allowed: NDArray[np.bool_] = np.isfinite(candidates["logit"])
    return allowed


def _spelled(L: ModuleType, vocab: Any, token_id: int) -> bytes:
    size = _PIECE_BYTES
    for _ in range(2):
        buffer = ctypes.create_string_buffer(size)
        count = int(L.llama_token_to_piece(vocab, token_id, buffer, size, 0, False))
        if count >= 0:
            return buffer.raw[:count]
        size = -count
    return b""


def _spelling(L: ModuleType, vocab: Any, text: bytes) -> list[int]:
    """Tokens that spell exactly this text.

    Some vocabularies put a blank before what they tokenize. A line break in front takes that blank upon
    itself, and the tokens after it are kept. Raises: Refused if no tokens spell the text.
    """
    for front in (b"\n", b""):
        data = front + text
        size = len(data) + 8
        buffer = (ctypes.c_int32 * size)()
        count = int(L.llama_tokenize(vocab, data, len(data), buffer, size, False, False))
        tokens = list(buffer[: max(count, 0)])
        pieces = [_spelled(L, vocab, token_id) for token_id in tokens]
        for start in range(len(tokens)):
            if b"".join(pieces[start:]) == text:
                return tokens[start:]
    raise Refused("not_supported", f"this model's vocabulary cannot spell {text!r}: send no tools")


@contextmanager
def _stderr_held() -> Iterator[list[bytes]]:
    """Keep what llama.cpp's parser prints: it repeats the whole grammar, which is the user's content."""
    held: list[bytes] = []
    target = os.memfd_create("grammar") if hasattr(os, "memfd_create") else os.open(os.devnull, os.O_RDWR)
    kept = os.dup(2)
    try:
        os.dup2(target, 2)
        yield held
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.lseek(target, 0, os.SEEK_SET)
        held.append(os.read(target, 400))
        os.close(target)


def _parser_fault(held: list[bytes]) -> str:
    line = b"".join(held).decode(errors="replace").partition("error parsing grammar:")[2].strip()
    return " ".join(line.split("\n")[0].split())[:160]
