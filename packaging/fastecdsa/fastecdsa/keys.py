from typing import NoReturn


def gen_keypair(*_: object) -> NoReturn:
    raise NotImplementedError("NIST P-256 keys are not supported here; use an Ed25519 identity")


gen_private_key = get_public_key = gen_keypair
