"""The file of settings: read whole and bounded, written so that a reader sees the old one or the new one."""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from unhosted.node.core.errors import Refused

FILE_BYTES_MAX = 1 << 20
"""A settings file of a megabyte is not one; reading it whole must stay cheap."""


def flatten(tree: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(cast("dict[str, object]", value), f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise Refused("invalid_request", f"{path} cannot be read: {error.strerror}") from None
    if len(raw) > FILE_BYTES_MAX:
        raise Refused(
            "invalid_request", f"{path} is larger than {FILE_BYTES_MAX} bytes; it should hold settings"
        )
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused("invalid_request", f"{path} is not UTF-8 at byte {error.start}") from None


def read_toml(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(read_text(path), parse_float=str)
    except tomllib.TOMLDecodeError as error:
        raise Refused("invalid_request", f"{path} is not TOML: {error}; correct or remove it") from None


def write_atomically(path: Path, text: str) -> None:
    """A reader sees the old file or the new one; a power cut leaves one of them."""
    target = path.resolve()  # a link into somebody's dotfiles stays a link
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    mode = target.stat().st_mode & 0o777 if target.exists() else 0o600
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
