"""A thin layer over llama.cpp's C API: models, contexts and batches whose arrays are numpy arrays.

Filling a batch is slice assignment, reading logits is a view: no ctypes work per token. `L` is the module
of `library.load_library()`. Facts about the API are measured in the decision note `docs/decisions`.
"""

import ctypes
import os
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

GGML_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 8, "bf16": 30}
PIECE_BYTES = 64
"""Nearly every token spells fewer bytes; a longer one is asked for again with its own length."""

META_BYTES = 256
"""Names, numbers and flags of a header; longer values are not asked for."""
LOGITS_VIEWS_MAX = 64
"""One for each number of slots that generate together; a view is a few hundred bytes."""


class EngineError(Exception):
    """The library refused: the message names what was asked of it."""


class Model:
    """A loaded GGUF file. Not thread-safe."""

    def __init__(
        self,
        L: ModuleType,
        path: str,
        *,
        gpu_layers: int = -1,
        vocab_only: bool = False,
        repacks: bool = True,
    ) -> None:
        """repacks: let llama.cpp lay weights out anew for the processor, which costs memory-mapping."""
        self.L: Any = L
        params = L.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        params.vocab_only = vocab_only
        params.use_extra_bufts = repacks
        self.ptr = L.llama_model_load_from_file(os.fsencode(path), params)
        if not self.ptr:
            raise EngineError(f"llama.cpp could not load {path}")
        self.vocab = L.llama_model_get_vocab(self.ptr)
        self.n_vocab = int(L.llama_vocab_n_tokens(self.vocab))
        self.context_tokens_trained = int(L.llama_model_n_ctx_train(self.ptr))
        self._pieces: dict[int, bytes] = {}
        self._end_ids: frozenset[int] | None = None

    @property
    def end_ids(self) -> frozenset[int]:
        """Ids that end a generation; a chat model has several, not just `eos`."""
        if self._end_ids is None:
            is_end = self.L.llama_vocab_is_eog
            self._end_ids = frozenset(i for i in range(self.n_vocab) if is_end(self.vocab, i))
        return self._end_ids

    def header(self, field: str) -> str | None:
        """A field of the file's header by its name after the architecture's, as text; None if absent."""
        architecture = self._meta("general.architecture")
        return self._meta(f"{architecture}.{field}")

    def _meta(self, key: str) -> str | None:
        buffer = ctypes.create_string_buffer(META_BYTES)
        size = int(self.L.llama_model_meta_val_str(self.ptr, key.encode(), buffer, META_BYTES))
        return None if size < 0 else buffer.value.decode("utf-8", "replace")

    @property
    def keeps_every_cell(self) -> bool:
        """Whether a sequence's tail can be dropped; a recurrent state cannot be taken back."""
        return not (self.L.llama_model_is_recurrent(self.ptr) or self.L.llama_model_is_hybrid(self.ptr))

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool = True) -> list[int]:
        data = text.encode("utf-8", "surrogatepass")
        size = len(data) + 8
        for _ in range(2):
            buffer = (self.L.llama_token * size)()
            count = int(
                self.L.llama_tokenize(self.vocab, data, len(data), buffer, size, add_special, parse_special)
            )
            if count >= 0:
                return list(buffer[:count])
            size = -count
        raise EngineError(f"llama.cpp could not tokenize {len(data)} bytes")

    def piece(self, token_id: int) -> bytes:
        """The bytes a token spells; a control token spells none."""
        found = self._pieces.get(token_id)
        if found is None:
            found = self._pieces[token_id] = self._read_piece(token_id)
        return found

    def _read_piece(self, token_id: int) -> bytes:
        size = PIECE_BYTES
        for _ in range(2):
            buffer = ctypes.create_string_buffer(size)
            count = int(self.L.llama_token_to_piece(self.vocab, token_id, buffer, size, 0, False))
            if count >= 0:
                return buffer.raw[:count]
            size = -count
        raise EngineError(f"llama.cpp could not spell token {token_id}")

    def close(self) -> None:
        if self.ptr:
            self.L.llama_model_free(self.ptr)
            self.ptr = None


class Batch:
    """A `llama_batch` over numpy arrays of `tokens_max` entries: fill the arrays, then decode n of them."""

    def __init__(self, L: ModuleType, tokens_max: int) -> None:
        self.token: NDArray[np.int32] = np.zeros(tokens_max, np.int32)
        self.position: NDArray[np.int32] = np.zeros(tokens_max, np.int32)
        self.sequence: NDArray[np.int32] = np.zeros(tokens_max, np.int32)
        self.output: NDArray[np.int8] = np.zeros(tokens_max, np.int8)
        self._one: NDArray[np.int32] = np.ones(tokens_max, np.int32)
        step = self.sequence.itemsize
        self._rows: NDArray[np.uint64] = (
            self.sequence.ctypes.data + step * np.arange(tokens_max, dtype=np.uint64)
        ).astype(np.uint64)

        def pointer(array: NDArray[Any], kind: Any) -> Any:
            return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))

        self.c = L.llama_batch()
        self.c.token = pointer(self.token, L.llama_token)
        self.c.embd = None
        self.c.pos = pointer(self.position, L.llama_pos)
        self.c.n_seq_id = pointer(self._one, ctypes.c_int32)
        self.c.seq_id = pointer(self._rows, ctypes.POINTER(L.llama_seq_id))
        self.c.logits = pointer(self.output, ctypes.c_int8)


class Context:
    """A KV cache and its compute buffers.

    split: every sequence has its own n_ctx / n_seq_max cells, which makes results independent of what else
    is in the batch (kv_unified off); else all share n_ctx.
    """

    def __init__(
        self,
        model: Model,
        *,
        context_tokens: int,
        sequences: int,
        batch_tokens: int,
        ubatch_tokens: int,
        threads: int,
        kv_type: str = "f16",
        split: bool = True,
        flash_attention: bool = True,
        embeddings: bool = False,
        outputs_max: int = 0,
    ) -> None:
        """embeddings: one vector for each output token, whatever pooling the model's file asks for.

        outputs_max: rows of logits of one batch, for which memory is held; 0 means one for each token.
        """
        L = self.L = model.L
        params = L.llama_context_default_params()
        params.n_ctx = context_tokens
        params.n_seq_max = sequences
        params.n_batch, params.n_ubatch = batch_tokens, ubatch_tokens
        params.n_outputs_max = outputs_max
        params.n_threads = params.n_threads_batch = threads
        key_type, _, value_type = kv_type.partition("/")
        params.type_k, params.type_v = GGML_TYPES[key_type], GGML_TYPES[value_type or key_type]
        # -1 takes it where the device has it; on CPUs that is everywhere.
        params.flash_attn_type = (-1 if kv_type == "f16" else 1) if flash_attention else 0
        params.kv_unified = not split
        params.embeddings = embeddings
        if embeddings:
            params.pooling_type = L.LLAMA_POOLING_TYPE_NONE
        params.swa_full = True  # a sliding window alone could not give back a prefix
        params.no_perf = True
        self.model = model
        self.ptr = L.llama_init_from_model(model.ptr, params)
        if not self.ptr:
            raise EngineError(
                f"llama.cpp could not make a context of {context_tokens} tokens for {sequences} sequences"
            )
        self.memory = L.llama_get_memory(self.ptr)
        self.cells_per_sequence = int(L.llama_n_ctx(self.ptr)) // (sequences if split else 1)
        self.batch_tokens = int(L.llama_n_batch(self.ptr))
        self.batch = Batch(L, self.batch_tokens)
        self._logits_address = _address_getter(L.llama_get_logits)
        self._embeddings_address = _address_getter(L.llama_get_embeddings)
        self.width = int(L.llama_model_n_embd(model.ptr))
        self._logits_views: dict[tuple[int, int], NDArray[np.float32]] = {}

    def decode(self, tokens: int) -> int:
        """0 done, 1 no space (nothing changed), else failed."""
        self.batch.c.n_tokens = tokens
        return int(self.L.llama_decode(self.ptr, self.batch.c))

    def set_threads(self, threads: int) -> None:
        self.L.llama_set_n_threads(self.ptr, threads, threads)

    def logits(self, rows: int) -> NDArray[np.float32]:
        """(rows, n_vocab) view of llama.cpp's memory, in the outputs' batch order; until the next decode."""
        address = self._logits_address(self.ptr)
        if address is None:
            raise EngineError("llama.cpp has no logits for this batch")
        view = self._logits_views.get((address, rows))
        if view is None:
            # llama.cpp keeps one buffer, and moves it only to grow: a view serves for many steps.
            if len(self._logits_views) >= LOGITS_VIEWS_MAX:
                self._logits_views.clear()
            floats = (ctypes.c_float * (rows * self.model.n_vocab)).from_address(address)
            view = np.ctypeslib.as_array(floats).reshape(rows, self.model.n_vocab)
            self._logits_views[address, rows] = view
        return view

    def embeddings(self, rows: int) -> NDArray[np.float32]:
        """(rows, n_embd) view of llama.cpp's memory, in the outputs' batch order; until the next decode."""
        address = self._embeddings_address(self.ptr)
        if address is None:
            raise EngineError("llama.cpp has no embeddings for this batch")
        floats = (ctypes.c_float * (rows * self.width)).from_address(address)
        return np.ctypeslib.as_array(floats).reshape(rows, self.width)

    def keep_cells(self, sequence: int, tokens: int) -> bool:
        """Drop everything from position `tokens` on; False when the model's memory cannot."""
        return bool(self.L.llama_memory_seq_rm(self.memory, sequence, tokens if tokens else -1, -1))

    def copy_cells(self, source: int, target: int, tokens: int) -> bool:
        """A partial copy between split sequences aborts the process: copy all, then drop the tail."""
        L, memory = self.L, self.memory
        L.llama_memory_seq_rm(memory, target, -1, -1)
        L.llama_memory_seq_cp(memory, source, target, -1, -1)
        return bool(L.llama_memory_seq_rm(memory, target, tokens, -1))

    def clear(self) -> None:
        self.L.llama_memory_clear(self.memory, True)

    def close(self) -> None:
        if self.ptr:
            self.L.llama_free(self.ptr)
            self.ptr = None


def _address_getter(function: Any) -> Any:
    """`function` with its result as a plain address: no pointer object is made and cast at every step."""
    address = ctypes.cast(function, ctypes.c_void_p).value
    if address is None:
        raise EngineError("llama.cpp lacks a function")
    return ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(address)
