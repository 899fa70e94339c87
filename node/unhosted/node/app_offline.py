"""The offline guard, for entry points: they may not reach into `shell`. Imports nothing else."""

from unhosted.node.shell.offline import Refusal, Refusals, install, loaded_refused_modules, refusals

__all__ = ["Refusal", "Refusals", "install", "loaded_refused_modules", "refusals"]
