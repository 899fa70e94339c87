"""Evidence on the disk: written whole and for its owner alone, read with a bound, whatever lies there."""

import errno
import os
import stat
from pathlib import Path

from unhosted.market.faults import RemoteFault
from unhosted.node.core.errors import Refused
from unhosted.node.core.evidence import Evidence
from unhosted.node.core.evidence_wire import EVIDENCE_BYTES_MAX, decode_evidence, encode_evidence

MODE = 0o600
"""Prompts and answers are in it: whoever made it decides who else reads them."""


def write_evidence(path: Path, evidence: Evidence) -> int:
    """Write a new file that appears whole; its size in bytes.

    Raises: Refused if something is there already, or if it would be larger than a reader takes. OSError.
    """
    data = encode_evidence(evidence)
    if len(data) > EVIDENCE_BYTES_MAX:
        raise Refused(
            "invalid_request",
            f"the evidence has {len(data)} bytes, at most {EVIDENCE_BYTES_MAX} are read: open fewer"
            " answers, or only a prefix of each",
        )
    draft = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.link(draft, path)  # unlike a rename it never takes the place of another file
    except FileExistsError:
        raise Refused("invalid_request", f"{path} is there already: choose another name") from None
    finally:
        os.unlink(draft)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return len(data)


def read_evidence(path: Path) -> tuple[Evidence, bytes]:
    """What the file says, not checked yet, and its bytes. Raises: Refused."""
    data = _read(path)
    try:
        return decode_evidence(data), data
    except RemoteFault as fault:
        raise Refused(
            "invalid_request",
            f"{path} is no evidence that this program reads ({fault.message}); ask whoever sent it for"
            " another copy",
        ) from None


def _read(path: Path) -> bytes:
    try:
        # Not blocking: a pipe without a writer would hold the program for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        word = "there is no such file" if error.errno == errno.ENOENT else error.strerror
        raise Refused("invalid_request", f"{path} cannot be read: {word}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise Refused("invalid_request", f"{path} is no regular file: name a file of evidence")
        if status.st_size > EVIDENCE_BYTES_MAX:
            raise Refused(
                "invalid_request",
                f"{path} has {status.st_size} bytes, evidence has at most {EVIDENCE_BYTES_MAX}",
            )
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(EVIDENCE_BYTES_MAX + 1)
    finally:
        os.close(descriptor)
