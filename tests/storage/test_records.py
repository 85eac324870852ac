"""Records: what goes in comes out, and nothing damaged or foreign is trusted."""

import numpy as np
import pytest

from storage.errors import DamagedFile, ForeignRecord
from storage.records import Record, from_bytes, text_id

FULL = 2**64 - 1


def record(n: int = 3) -> Record:
    rng = np.random.default_rng(0)
    fusions = {(text, mask): rng.random((4, 8)).astype(np.float16) for text, mask in (("b" * 16, FULL), ("a" * 16, 1))}
    return Record("model-1", tuple(k + 0.5 for k in range(n)), rng.random((n, 1, 8)).astype(np.float16), fusions)


def test_a_record_survives_the_way_through_bytes() -> None:
    before = record()
    after = from_bytes(before.to_bytes(), "here", "model-1")
    assert after.timestamps_s == before.timestamps_s
    assert np.array_equal(after.tokens, before.tokens)
    assert list(after.fusions) == list(before.fusions)  # oldest first
    assert all(np.array_equal(after.fusions[key], before.fusions[key]) for key in before.fusions)


def test_any_damage_is_reported_by_path() -> None:
    blob = record().to_bytes()
    rng = np.random.default_rng(1)
    for length in (0, 5, 8, 100, len(blob) - 1):
        with pytest.raises(DamagedFile, match="there/tokens"):
            from_bytes(blob[:length], "there/tokens.safetensors", "model-1")
    for junk in (rng.bytes(500), b"\x08" + bytes(7) + b"[1,2,3] ", b"<html>not a record</html>"):
        with pytest.raises(DamagedFile):
            from_bytes(junk, "x", "model-1")


def test_another_models_record_is_refused() -> None:
    with pytest.raises(ForeignRecord, match="model-1"):
        from_bytes(record().to_bytes(), "x", "model-2")
    assert len(from_bytes(record().to_bytes(), "x", None)) == 3


def test_the_oldest_fusions_go_but_never_the_pinned_text() -> None:
    full = record()
    fresh = {("c" * 16, 7): np.zeros((4, 8), np.float16)}
    kept = full.with_fusions(fresh, keep=2, pinned="b" * 16)
    assert list(kept.fusions) == [("b" * 16, FULL), ("c" * 16, 7)]


def test_text_ids_tell_texts_apart() -> None:
    assert text_id([1, 2, 3]) == text_id((1, 2, 3)) != text_id([1, 23])
