"""A model's process that makes llama.cpp abort, for real, when a prompt contains the poison token.

A partial copy between split sequences fails one of llama.cpp's own assertions, which ends the process with
SIGABRT: what a bug in the library or a hostile model file would do.
"""

from numpy import float32
from numpy.typing import NDArray

from unhosted.node.core.batching import Plan
from unhosted.node.shell.engine import child, runner

POISON_ID = 77


class AbortingRunner(runner.LlamaRunner):
    def execute(self, plan: Plan) -> NDArray[float32] | None:
        if any(POISON_ID in feed.tokens and feed.start == 0 for feed in plan.feeds):
            context = self._context
            super().execute(plan)
            context.L.llama_memory_seq_cp(context.memory, 0, 1, 0, 1)
        return super().execute(plan)


runner.LlamaRunner = AbortingRunner  # type: ignore[misc]

if __name__ == "__main__":
    child.main()
