"""Tells how far the encoders are behind a stream."""

from datetime import UTC, datetime

from storage.documents import Video
from storage.store import Store
from storage.timeline import slots_in


def find_lag_s(store: Store, stream: Video) -> float:
    """How long ago the oldest frame was captured that is not encoded; 0 if all are."""
    model = store.workers.read_model()
    encoded = set(store.open_frames.list_encoded(stream.id, model))
    waiting = [slot for slot in store.open_frames.list_slots(stream.id) if slot not in encoded]
    (pending,) = store.coverage.list_pending([stream.id], model, 1)
    if pending:
        covered = store.coverage.read(stream.id, range(pending[0], pending[0] + 1), model)
        left = {segment: mask & ~covered.encoded.get(segment, 0) for segment, mask in covered.sampled.items()}
        waiting += slots_in(left)
    if not waiting:
        return 0.0
    return max(round(stream.grid.seconds(datetime.now(UTC)) - stream.grid.time_s(min(waiting)), 1), 0.0)
