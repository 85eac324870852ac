"""Measures the service's own storage and jobs with a stub model of 8B shapes, and holds them to their targets."""

import argparse
import tempfile
from pathlib import Path
from collections import Counter

from benchmarks.scale.meter import Cost
from benchmarks.scale.operations import (
    MAIN,
    Measured,
    measure_ingest,
    measure_live,
    measure_questions,
    measure_unfinished,
    measure_videos,
)
from benchmarks.scale.service import running_service
from llava_mini.tables import table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="videos,ingest,live,questions,unfinished")
    parser.add_argument("--calls", action="store_true")
    parser.add_argument("--sizes", default="10,100,1000")
    given = parser.parse_args()
    sizes = [int(s) for s in given.sizes.split(",")]
    rows: list[Measured] = []

    def note(measured):
        for m in measured:
            rows.append(m)
            c = m.cost
            print(
                m.name,
                m.videos,
                "asked",
                c.count("storage", thread=MAIN),
                "stor",
                c.count("storage"),
                "queue",
                c.count("queueing"),
                "MB",
                c.state_bytes / 1e6,
                c.cache_bytes / 1e6,
                dict(c.archive),
                "cpu",
                round(c.cpu_s, 3),
                round(c.redis_cpu_s, 3),
                "wall",
                round(c.wall_s, 2),
                "per",
                m.per,
                flush=True,
            )
            if given.calls:
                for (t, r, k, w), n in Counter(
                    (x.thread, x.role, x.kind, x.words[0] + " " + " ".join(x.words[1:4])[:110]) for x in c.calls
                ).items():
                    print("     ", n, t, r, k, w)

    with tempfile.TemporaryDirectory(prefix="lw") as f, running_service(Path(f)) as service:
        if "videos" in given.only:
            held = 0
            for size in sizes:
                for _ in range(size - held):
                    service.add_hour()
                held = size
                note(measure_videos(service, size))
        if "ingest" in given.only:
            note(measure_ingest(service))
        if "live" in given.only:
            note(measure_live(service, 100))
        if "questions" in given.only:
            if "live" not in given.only:
                service.start_encoder()
            note(measure_questions(service))
    if "unfinished" in given.only:
        with tempfile.TemporaryDirectory(prefix="lw") as f, running_service(Path(f)) as service:
            note(measure_unfinished(service, max(sizes)))


if __name__ == "__main__":
    main()
