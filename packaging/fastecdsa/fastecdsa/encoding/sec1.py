from typing import NoReturn


class SEC1Encoder:
    @staticmethod
    def encode_public_key(*_: object) -> NoReturn:
        raise NotImplementedError("NIST P-256 keys are not supported here; use an Ed25519 identity")

    decode_public_key = encode_public_key
