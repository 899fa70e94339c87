from fastecdsa import curve


class Point:
    def __init__(self, x: int, y: int, curve: "curve.Curve") -> None:
        raise NotImplementedError("NIST P-256 keys are not supported here; use an Ed25519 identity")
