"""Encrypted connections to other machines, over libp2p. No other package imports libp2p or multiaddr."""
