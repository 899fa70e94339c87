"""Becomes forge: python -m tools.forge test --match-contract Bonds"""

import os
import sys

from tools.toolchain import QUIET, ROOT, ToolFailed, forge_binary, say

if __name__ == "__main__":
    try:
        binary = forge_binary()
    except ToolFailed as fault:
        say(f"error: {fault}")
        sys.exit(1)
    os.chdir(ROOT)
    os.execve(binary, ["forge", *sys.argv[1:]], {**QUIET, **os.environ})
