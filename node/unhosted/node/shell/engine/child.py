"""The process that runs one model: `python -m unhosted.node.shell.engine.child FD`, started by `host.py`.

It gives up the network first, then loads the library and the model, then serves messages on the inherited
socket until the node closes it. It keeps no state that the node would miss: a node whose child dies starts
another one and goes on from the tokens it has.
"""

import os
import select
import socket
import sys
from dataclasses import asdict, dataclass
from typing import Any

from unhosted.node.core.batching import Limits
from unhosted.node.core.inference import Constraint
from unhosted.node.shell.collector import calm_collector
from unhosted.node.shell.engine import sandbox
from unhosted.node.shell.engine.wire import Decoder, Message, encode

_RECEIVE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOrder:
    """What the child is told to load. threads: 0 means one for each core this process may use.

    is_split: off makes answers depend on what else is in the batch; only to measure sellers who do so.
    is_exact: see `rowwise`. repacks: let llama.cpp lay weights out anew for the processor.
    """

    path: str
    slots: int
    context_tokens: int
    batch_tokens: int
    ubatch_tokens: int
    threads: int
    kv_type: str
    gpu_layers: int
    queue_max: int
    flash_attention: bool = True
    is_split: bool = True
    is_exact: bool = False
    repacks: bool = True


def main() -> None:
    connection = socket.socket(fileno=int(sys.argv[1]))
    level = sandbox.enter()
    decoder = Decoder()
    pending = _receive(connection, decoder, wait=True)
    if pending is None:
        return
    order = LoadOrder(**pending.pop(0)[1])
    try:
        loop, facts = _load(order, connection)
    except Exception as fault:  # whatever it was, the node must be able to say why the model did not load
        connection.sendall(encode(["failed", "", f"{type(fault).__name__}: {fault}"]))
        return
    calm_collector()
    connection.sendall(encode(["ready", "", {**facts, "sandbox": level, "pid": os.getpid()}]))
    _serve(connection, decoder, loop, pending)


def _load(order: LoadOrder, connection: socket.socket) -> tuple[Any, dict[str, Any]]:
    from unhosted.node.shell.engine.check_plan import ROWS_MAX, rows_at_once
    from unhosted.node.shell.engine.checker import Checker
    from unhosted.node.shell.engine.facts import describe, weights_of
    from unhosted.node.shell.engine.grammar import build_mask
    from unhosted.node.shell.engine.library import load_library, loaded_library
    from unhosted.node.shell.engine.llama import Model
    from unhosted.node.shell.engine.loop import EngineLoop
    from unhosted.node.shell.engine.rowwise import settle
    from unhosted.node.shell.engine.runner import LlamaRunner
    from unhosted.node.shell.engine.sequence import AcceptingMask

    L = load_library()
    L.llama_backend_init()
    weights = weights_of(order.path)
    order = settle(L, order, frozenset(weights.split(",")))
    model = Model(L, order.path, gpu_layers=order.gpu_layers, repacks=order.repacks)
    _ = model.end_ids  # asks for each token of the vocabulary: now, not in somebody's first answer
    threads = order.threads or len(os.sched_getaffinity(0))
    runner = LlamaRunner(
        model,
        slots=order.slots,
        context_tokens=order.context_tokens,
        batch_tokens=order.batch_tokens,
        ubatch_tokens=order.ubatch_tokens,
        threads=threads,
        kv_type=order.kv_type,
        flash_attention=order.flash_attention,
        is_split=order.is_split,
    )

    def make_mask(constraint: Constraint) -> AcceptingMask:
        return build_mask(L, model.vocab, model.n_vocab, constraint)

    engine = describe(L, model, order, weights=weights, threads=threads)
    waiting = select.poll()
    waiting.register(connection, select.POLLIN)
    checker = Checker(
        model,
        threads=threads,
        # A graphics card cannot be interrupted, and need not be.
        rows_max=ROWS_MAX if engine.gpu_layers else rows_at_once(int(L.llama_model_n_params(model.ptr))),
        make_mask=make_mask,
        is_wanted=lambda: bool(waiting.poll(0)),
    )
    loop = EngineLoop(
        vocabulary=model,
        runner=runner,
        limits=Limits(
            slots=order.slots,
            context_tokens=order.context_tokens,
            batch_tokens=order.batch_tokens + order.slots,
            prefill_tokens_max=order.batch_tokens,
            queue_max=order.queue_max,
            cells_total=order.slots * order.context_tokens,
            partial_removal=model.keeps_every_cell,
        ),
        make_mask=make_mask,
        embed=runner.embed,
        check=checker.check,
    )
    library = loaded_library()
    return loop, {
        "library": str(library.kind) if library else "",
        "threads": threads,
        "engine": asdict(engine),
    }


def _serve(connection: socket.socket, decoder: Decoder, loop: Any, pending: list[Message]) -> None:
    waiting = select.poll()
    waiting.register(connection, select.POLLIN)
    messages: list[Message] | None = pending
    while messages is not None:
        answers = bytearray()
        for message in messages:
            for answer in loop.handle(message):
                answers += encode(answer)
        admitted = loop.plan_step()
        if admitted is not None:
            answers += encode(admitted)
        if answers:
            connection.sendall(answers)
        for step in (loop.run_step, loop.run_embedding_step, loop.run_check_step):
            said = step()  # said at once: the next one may take half a second
            if said is not None:
                connection.sendall(encode(said))
        if loop.is_idle:
            loop.check_integrity()
            messages = _receive(connection, decoder, wait=True)
        else:
            messages = _receive(connection, decoder, wait=False) if waiting.poll(0) else []


def _receive(connection: socket.socket, decoder: Decoder, *, wait: bool) -> list[Message] | None:
    """At least one whole message, or None when the node is gone."""
    while True:
        data = connection.recv(_RECEIVE_BYTES)
        if not data:
            return None
        messages = decoder.feed(data)
        if messages or not wait:
            return messages


if __name__ == "__main__":
    main()
