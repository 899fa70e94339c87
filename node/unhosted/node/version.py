"""The version of the installed program."""

import importlib.metadata


def installed_version() -> str:
    """As the distribution says; a source tree that was not installed is "0+source"."""
    try:
        return importlib.metadata.version("unhosted")
    except importlib.metadata.PackageNotFoundError:
        return "0+source"
