"""A chain on this machine alone: an engine (anvil, or a machine in Python), our contracts, test money."""
