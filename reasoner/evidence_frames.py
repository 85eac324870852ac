"""Names the frames that an answer rests on, with their times and pictures."""

from collections.abc import Sequence

from reasoner.focus import Array, Frame, evidence
from storage.documents import Evidence, Video
from storage.timeline import Grid


def list_evidence(
    holder: Video, video_id: str, grid: Grid, frames: Sequence[Frame], scores: Array, wanted: int
) -> tuple[Evidence, ...]:
    """The frames with the most attention, highest first. `video_id` and `grid` are those of the video asked about."""
    return tuple(
        Evidence(
            slot=frames[place].slot,
            t_s=frames[place].t_s,
            at=grid.clock(frames[place].t_s),
            score=score,
            picture=f"/v1/{'streams' if holder.is_live else 'videos'}/{video_id}/frames/{frames[place].slot}.jpg",
        )
        for place, score in evidence(scores, wanted)
    )
