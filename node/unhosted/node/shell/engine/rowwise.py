"""Makes an engine round alike for one row and for many, and tries whether it does.

llama.cpp chooses kernels by the number of rows, for speed. Where a seller wants its answers to be repeatable
bit for bit, those kernels are left out: `core.engine_facts` says which they are. The choice is llama.cpp's
own and made anew with each version, so an engine that claims to be exact has tried it, on a few tokens.
"""

import os
from dataclasses import replace
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from unhosted.node.core.engine_facts import EXACT_CACHE, ROWWISE_WEIGHTS
from unhosted.node.shell.engine.child import LoadOrder
from unhosted.node.shell.engine.devices import has_accelerator
from unhosted.node.shell.engine.llama import Context, EngineError, Model

TILES_VARIABLE = "GGML_CPU_TILED_MM"
"""llama.cpp's switch for its tiles of K-quants, read once, at the first product."""

TRIED_TOKENS, TRIED_ALONE = 16, 4
"""Kernels for many rows begin at two, four and eight; those at 64 are ruled out by the cache's type."""


def settle(L: ModuleType, order: LoadOrder, weights: frozenset[str]) -> LoadOrder:
    """The order as this machine can carry it out; to be called before a model is loaded.

    Exact engines get the cache and the kernels for it, on processors; with a graphics card the wish is
    dropped, for there each number of rows has its kernel. weights: tensor types of the matrices.
    """
    if not order.is_exact:
        return order
    if has_accelerator(L):
        return replace(order, is_exact=False)
    os.environ[TILES_VARIABLE] = "0"
    kv_type = EXACT_CACHE if order.kv_type == "f16" else order.kv_type
    return replace(order, kv_type=kv_type, repacks=weights <= ROWWISE_WEIGHTS)


def is_rowwise(model: Model, order: LoadOrder, threads: int) -> bool:
    """Whether four tokens get the same bits one by one as among sixteen; takes as long as reading 32."""
    context = Context(
        model,
        context_tokens=256,
        sequences=1,
        batch_tokens=TRIED_TOKENS,
        ubatch_tokens=TRIED_TOKENS,
        threads=threads,
        kv_type=order.kv_type,
        flash_attention=order.flash_attention,
    )
    try:
        ids = np.linspace(0, model.n_vocab - 1, TRIED_TOKENS, dtype=np.int32)
        before = TRIED_TOKENS - TRIED_ALONE
        together = _rows(context, ids, 0)[before:]
        context.clear()
        _rows(context, ids[:before], 0)
        alone = [_rows(context, ids[at : at + 1], at) for at in range(before, TRIED_TOKENS)]
        return bool(np.array_equal(together.view(np.uint32), np.concatenate(alone).view(np.uint32)))
    finally:
        context.close()


def _rows(context: Context, ids: NDArray[np.int32], start: int) -> NDArray[np.float32]:
    """(ids, n_vocab) logits, as a copy."""
    count = len(ids)
    batch = context.batch
    batch.token[:count] = ids
    batch.position[:count] = np.arange(start, start + count, dtype=np.int32)
    batch.sequence[:count] = 0
    batch.output[:count] = 1
    code = context.decode(count)
    if code != 0:
        raise EngineError(f"llama_decode answered {code} for {count} tokens of a trial")
    return context.logits(count).copy()
