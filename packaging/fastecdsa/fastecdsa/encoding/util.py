def int_bytelen(number: int) -> int:
    """Bytes that the number takes."""
    return (number.bit_length() + 7) // 8
