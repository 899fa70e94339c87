"""Model files between paired peers, and the encrypted TCP connection beside libp2p that carries them."""
