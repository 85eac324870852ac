"""Records: what goes in comes out, and nothing damaged or foreign is trusted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import DamagedFile, ForeignRecord
from storage.records import Record, parse_record, select_tokens, text_id
from storage.timeline import mask_of
from tests.storage.making import MODEL, make_record

BLOB = make_record(3).to_bytes()


@given(st.sets(st.integers(0, 63), min_size=1, max_size=64), st.integers(1, 4), st.integers(0, 5))
def test_a_record_survives_packing_and_parsing(places: set[int], tokens_each: int, rows: int) -> None:
    rng = np.random.default_rng(len(places))
    tokens = rng.random((len(places), tokens_each, 8)).astype(np.float16)
    before = Record(MODEL, mask_of(places), tokens, "text", rng.random((rows, 8)).astype(np.float16))
    after = parse_record(before.to_bytes(), "here", MODEL)
    assert (after.mask, after.system_id, after.fingerprint) == (before.mask, "text", MODEL)
    assert np.array_equal(after.tokens, tokens)
    assert np.array_equal(after.system, before.system)
    wanted = mask_of(sorted(places)[::2])
    assert np.array_equal(select_tokens(after.tokens, after.mask, wanted), tokens[::2])


@given(st.integers(0, len(BLOB) - 1))
def test_a_record_cut_anywhere_is_named_by_path(length: int) -> None:
    with pytest.raises(DamagedFile, match="there/tokens"):
        parse_record(BLOB[:length], "there/tokens.safetensors", MODEL)


@given(st.one_of(st.binary(max_size=300), st.binary(max_size=300).map(lambda junk: BLOB[:8] + junk)))
def test_junk_is_named_by_path(junk: bytes) -> None:
    with pytest.raises((DamagedFile, ForeignRecord), match="there/tokens"):
        parse_record(junk, "there/tokens.safetensors", MODEL)


def test_tokens_that_do_not_match_the_mask_are_damage() -> None:
    record = Record(MODEL, 0b1, np.zeros((2, 1, 8), np.float16), "text", np.zeros((1, 8), np.float16))
    with pytest.raises(DamagedFile, match="do not match its mask"):
        parse_record(record.to_bytes(), "x", MODEL)


def test_another_models_record_is_refused() -> None:
    with pytest.raises(ForeignRecord, match=MODEL):
        parse_record(BLOB, "x", "another")


def test_text_ids_tell_texts_apart() -> None:
    assert text_id([1, 2, 3]) == text_id((1, 2, 3)) != text_id([1, 23])
