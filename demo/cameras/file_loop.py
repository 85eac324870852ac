"""Plays a clip in real time, again and again, to all who watch. Knows nothing of protocols."""

import asyncio
import time
from typing import Protocol

from demo.cameras.clips import Clip, Unit
from demo.cameras.faults import Faults


class Viewer(Protocol):
    """A client that watches."""

    def take_unit(self, unit: Unit, shown_s: float) -> None:
        """Sends a unit. `shown_s` counts from the camera's start and keeps growing over the loops."""

    def is_behind(self) -> bool:
        """Whether so much waits to be sent that the client must lose some."""


class FileLoop:
    """A live source. Time goes on whether anybody watches or not, and every viewer sees the same moment."""

    def __init__(self, clip: Clip, faults: Faults) -> None:
        self.clip = clip
        self.started_at = 0.0  # time.monotonic() at which the first picture was captured
        self._switched = False
        self._faults = faults
        self._viewers: dict[Viewer, bool] = {}  # whether the viewer waits for a key picture
        self._held: list[tuple[Unit, float]] = []

    def add_viewer(self, viewer: Viewer) -> None:
        """Begins at the next key picture, unless the camera is set to begin anywhere."""
        self._viewers[viewer] = not self._faults.joins_anywhere

    def remove_viewer(self, viewer: Viewer) -> None:
        """Sends nothing more to this viewer."""
        self._viewers.pop(viewer, None)

    def switch(self, clip: Clip) -> None:
        """Goes on with the beginning of another clip. The timestamps keep growing."""
        self.clip, self._switched = clip, True

    def read_clock_s(self) -> float:
        """Returns what a camera's clock shows now, on the scale of the `shown_s` of the units."""
        return time.monotonic() - self.started_at + self._faults.clock_jump_s

    async def run(self) -> None:
        """Plays until it is cancelled."""
        self.started_at = time.monotonic()
        start_s = 0.0
        while True:
            self._switched, clip = False, self.clip
            for unit in clip.units:
                due_at = self.started_at + start_s + unit.decoded_s + clip.delay_s
                await asyncio.sleep(due_at - time.monotonic())
                if self._switched:
                    start_s = time.monotonic() - self.started_at
                    break
                self._deliver(unit, start_s + unit.shown_s)
            else:
                start_s += clip.duration_s

    def _deliver(self, unit: Unit, shown_s: float) -> None:
        if self._faults.is_stalled:
            if self._faults.keeps_stalled:
                self._held.append((unit, shown_s))
            else:
                self._viewers = dict.fromkeys(self._viewers, True)
            return
        held, self._held = self._held, []
        for late_unit, late_shown_s in [*held, (unit, shown_s)]:
            self._show(late_unit, late_shown_s + self._faults.clock_jump_s)

    def _show(self, unit: Unit, shown_s: float) -> None:
        for viewer, waits in list(self._viewers.items()):
            self._viewers[viewer] = (waits and not unit.is_key) or viewer.is_behind()
            if not self._viewers[viewer]:
                viewer.take_unit(unit, shown_s)
