"""Who this machine is among peers: see `shell.keys.identity`, which also an offline node may import."""

from unhosted.node.shell.keys.identity import (
    ALPHABET,
    FILE_BYTES_MAX,
    FOOTER,
    HEADER,
    PREFIX,
    SEED_BYTES,
    Identity,
    _base58_encode,
    load_identity,
    new_identity,
    public_key,
    verify,
)

__all__ = [
    "ALPHABET",
    "FILE_BYTES_MAX",
    "FOOTER",
    "HEADER",
    "PREFIX",
    "SEED_BYTES",
    "Identity",
    "_base58_encode",
    "load_identity",
    "new_identity",
    "public_key",
    "verify",
]
