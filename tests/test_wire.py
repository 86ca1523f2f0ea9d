"""The outer layer of Perspective's protocol, and what is remembered of it."""

import pytest
from google.protobuf import wrappers_pb2
from hypothesis import given
from hypothesis import strategies as st

from parallax import wire
from parallax.wire import Envelope, Malformed, decode, head, varint

envelopes = st.builds(
    Envelope,
    msg_id=st.integers(0, 2**32 - 1),
    entity_id=st.text(max_size=200),
    number=st.integers(3, 60),
    body=st.binary(max_size=200),
)


@given(envelopes)
def test_what_was_encoded_is_decoded_also_when_it_was_seen_before(envelope: Envelope) -> None:
    assert decode(envelope.encode()) == decode(envelope.encode()) == envelope
    assert decode(envelope._replace(msg_id=7).encode()) == envelope._replace(msg_id=7)


@given(envelopes, st.integers(0, 2**40))
def test_the_last_message_id_counts_and_is_cut_as_protobuf_cuts_it(envelope: Envelope, again: int) -> None:
    assert decode(envelope.encode() + b"\x08" + varint(again)).msg_id == again & 0xFFFFFFFF


@given(
    st.one_of(
        st.integers(0, 2**64 - 1), st.builds(lambda bits, off: max(0, 2**bits + off), st.integers(0, 63), st.integers(-1, 1))
    )
)
def test_numbers_are_encoded_as_protobuf_does(number: int) -> None:
    assert wrappers_pb2.UInt64Value(value=number).SerializeToString() == (b"\x08" + varint(number) if number else b"")


@given(st.binary(max_size=60))
def test_what_is_not_readable_is_not_readable_the_second_time_either(frame: bytes) -> None:
    def said() -> object:
        try:
            return decode(frame)
        except Malformed as wrong:
            return str(wrong), wrong.msg_id, wrong.entity_id

    assert said() == said()


def test_the_message_id_of_a_broken_request_is_told() -> None:
    with pytest.raises(Malformed) as wrong:
        decode(b"\x08\x2a\x12\x05ab")
    assert wrong.value.msg_id == 42


def test_nothing_long_that_a_viewer_says_is_kept() -> None:
    head(1, "", 12, 0)
    before = wire._named.cache_info().currsize, wire._read_short.cache_info().currsize
    for number in range(50):
        long = f"{number}-" + "x" * 1000
        assert head(1, long, 12, 0).count(b"x") == 1000
        assert decode(Envelope(1, long, 12, b"").encode()).entity_id == long
        assert decode(Envelope(1, "", 12, long.encode()).encode()).body == long.encode()
    assert (wire._named.cache_info().currsize, wire._read_short.cache_info().currsize) == before
