"""BLAKE3-256 with a domain string first, so that no hash of one kind of value is one of another kind.

The domain strings are of different kinds of messages, and each is followed by a CBOR map or by fields of
fixed length, so that no two inputs can be the same bytes.
"""


def blake3_of(domain: bytes, *parts: bytes) -> bytes:
    """32 bytes over the domain string and the parts, one after the other."""
    from blake3 import blake3

    return blake3(domain + b"".join(parts)).digest()
