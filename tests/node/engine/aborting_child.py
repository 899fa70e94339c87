"""A model's process that makes llama.cpp abort, for real, when a prompt contains the poison token, and that
dies while it reads a prompt that contains the poison text, as a library's tokenizer may.

A partial copy between split sequences fails one of llama.cpp's own assertions, which ends the process with
SIGABRT: what a bug in the library or a hostile model file would do.
"""

import os

from numpy import float32
from numpy.typing import NDArray

from unhosted.node.core.batching import Plan
from unhosted.node.core.inference import CheckRequest
from unhosted.node.shell.engine import checker, child, llama, runner

POISON_ID = 77
POISON_TEXT = "unreadable"


class AbortingRunner(runner.LlamaRunner):
    def execute(self, plan: Plan) -> NDArray[float32] | None:
        if any(POISON_ID in feed.tokens and feed.start == 0 for feed in plan.feeds):
            context = self._context
            super().execute(plan)
            context.L.llama_memory_seq_cp(context.memory, 0, 1, 0, 1)
        return super().execute(plan)


class AbortingModel(llama.Model):
    def tokenize(self, text: str, *, add_special: bool, parse_special: bool = True) -> list[int]:
        if POISON_TEXT in text:
            os.abort()
        return super().tokenize(text, add_special=add_special, parse_special=parse_special)


def aborting_tokens(request: CheckRequest, start: int, stop: int) -> tuple[int, ...]:
    if POISON_ID in request.prompt_ids:
        os.abort()
    return whole_tokens(request, start, stop)


whole_tokens = checker._tokens

if __name__ == "__main__":  # not where a test asks for the poison's name
    checker._tokens = aborting_tokens
    runner.LlamaRunner = AbortingRunner  # type: ignore[misc]
    llama.Model = AbortingModel  # type: ignore[misc]
    child.main()
