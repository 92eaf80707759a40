"""Numbers as protobuf writes them: seven bits a byte, the lowest first, the last one below 0x80."""


def encode(value: int) -> bytes:
    """Returns the varint of a number that is not negative."""
    if value < 0x80:
        return bytes((value,))
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
