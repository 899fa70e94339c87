class Curve:
    """Never used: a P-256 identity is refused before its curve matters."""


P256 = Curve()
