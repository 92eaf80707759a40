from chirp.v1 import tweet_pb2
from hypothesis import given
from hypothesis import strategies as st

from domain import varint


@given(st.one_of(st.integers(0, 2**63 - 1), st.sampled_from([0x7F, 0x80, 0x3FFF, 0x4000])))
def test_a_number_is_written_as_protobuf_does(value: int):
    written = tweet_pb2.Tweet(id=value).SerializeToString()

    # A field that is 0 is left out.
    assert written == (b"\x08" + varint.encode(value) if value else b"")
    assert varint.encode(0) == b"\0"
