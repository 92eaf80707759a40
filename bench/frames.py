"""Frames of HTTP/2 (RFC 9113), and gRPC calls in them: what a load client needs, no more."""

import urllib.parse
from dataclasses import dataclass

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 2, 3, 4
SETTING_BYTES = 6
WINDOW_MAX = (1 << 31) - 1
FRAME_HEADER_BYTES = 9
_GRPC_MESSAGE = b"\x0cgrpc-message"


@dataclass(frozen=True, slots=True)
class Request:
    """A unary gRPC call, encoded; the stream's number goes between the parts."""

    head: bytes
    middle: bytes
    tail: bytes


def request(method: str, authority: str, token: str, message: bytes) -> Request:
    """Encodes a call of `/package.Service/Method` with a serialised message."""
    block = b"".join(
        (
            b"\x83\x86",  # :method POST, :scheme http, of the static table
            b"\x04" + _string(method),  # :path
            b"\x01" + _string(authority),  # :authority
            b"\x00" + _string("te") + _string("trailers"),
            b"\x00" + _string("content-type") + _string("application/grpc"),
            b"\x00" + _string("authorization") + _string(f"Bearer {token}"),
        )
    )
    body = b"\x00" + len(message).to_bytes(4) + message
    return Request(
        head=frame_start(len(block), HEADERS, END_HEADERS),
        middle=block + frame_start(len(body), DATA, END_STREAM),
        tail=body,
    )


def greeting(*settings: tuple[int, int]) -> bytes:
    """What a client begins a connection with: settings, and a window that holds nothing up."""
    encoded = b"".join(number.to_bytes(2) + value.to_bytes(4) for number, value in settings)
    start = frame_start(len(encoded), SETTINGS, 0) + bytes(4)
    return PREFACE + start + encoded + window_update(WINDOW_MAX - 65_535)


def settings_ack() -> bytes:
    """A whole frame that says that the server's settings hold."""
    return frame_start(0, SETTINGS, ACK) + bytes(4)


def ping_ack(payload: bytes) -> bytes:
    """A whole frame that answers a ping with its 8 bytes."""
    return frame_start(8, PING, ACK) + bytes(4) + payload


def grpc_message(block: bytes) -> str:
    """Returns what a header block of gRPC C-core says of a failed call, "" where it says nothing.
    C-core writes `grpc-message` as literals that refer to no table, so the others need no reading.
    """
    _, found, value = block.partition(_GRPC_MESSAGE)
    if not found:
        return ""
    length, at = value[0] & 0x7F, 1
    if length == 127:  # RFC 7541, 5.1
        shift = 0
        while True:
            length += (value[at] & 0x7F) << shift
            shift, at = shift + 7, at + 1
            if value[at - 1] < 0x80:
                break
    return urllib.parse.unquote_to_bytes(value[at : at + length]).decode(errors="replace")


def frame_start(length: int, kind: int, flags: int) -> bytes:
    """A frame's header up to its stream number."""
    return length.to_bytes(3) + bytes((kind, flags))


def window_update(increment: int) -> bytes:
    """A whole frame that lets the server send so many more bytes on the connection."""
    return frame_start(4, WINDOW_UPDATE, 0) + bytes(4) + increment.to_bytes(4)


def _string(text: str) -> bytes:
    """A string literal of HPACK, without Huffman coding (RFC 7541, 5.1 and 5.2)."""
    content = text.encode()
    length = len(content)
    if length < 127:
        return bytes((length,)) + content
    encoded = bytearray((127,))
    length -= 127
    while length >= 128:
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    encoded.append(length)
    return bytes(encoded) + content
