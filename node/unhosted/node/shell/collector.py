"""Python's garbage collector, told what a server's life is like."""

import gc

COLLECT_EVERY_OBJECTS = 20_000
"""A token makes some hundred objects and hardly a cycle; by default every 700 would start a search."""


def calm_collector() -> None:
    """Call once what is loaded is loaded: it stays, and is not searched for garbage again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_EVERY_OBJECTS, 20, 50)
