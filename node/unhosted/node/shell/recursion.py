"""Puts Python's recursion limit back where Python has it.

Libraries of the Ethereum world raise it to 100,000 when they are imported (py_ecc does, for all of them).
Then `json.loads` of a text that is only brackets no longer raises RecursionError: it overruns the stack of
the thread and takes the process with it. Text from strangers is read by every part of the node.
"""

import sys

RECURSION_DEPTH_MAX = 1_000
"""Python's own default: a frame of ours is far below it, and the stack of any thread holds it."""


def keep_recursion_limit() -> None:
    """To be called after an import of web3 or eth_account, and cheap enough for before every reading."""
    if sys.getrecursionlimit() > RECURSION_DEPTH_MAX:
        sys.setrecursionlimit(RECURSION_DEPTH_MAX)
