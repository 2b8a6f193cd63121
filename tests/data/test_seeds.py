"""Seeds: one stream for each purpose, independent of each other and stable over versions."""

import hashlib

from ssmtl_toolkit.data.seeds import Stream, step_seed


def test_a_stream_counts_as_its_number():
    assert step_seed(5, Stream.SLICES, 2) == step_seed(5, 3, 2)


def test_a_seed_is_63_bits_of_blake2b_of_its_numbers():
    digest = hashlib.blake2b(b"(5, 3, 2)", digest_size=8).digest()
    assert step_seed(5, 3, 2) == int.from_bytes(digest, "big") // 2


def test_no_two_purposes_share_a_stream():
    assert len({int(stream) for stream in Stream}) == len(Stream) == 10
    assert len({step_seed(0, stream) for stream in Stream}) == 10
