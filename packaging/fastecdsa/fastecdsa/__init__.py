"""The names that libp2p imports from fastecdsa, without the curve: identities here are Ed25519."""
