"""The ingest worker process: `python -m ingest`."""

from configs.loading import settings_from_command_line
from configs.settings import Settings
from ingest.jobs import IngestJobs
from storage.store import Store
from storage.worker import run_worker


def run(settings: Settings) -> None:
    """Works on the ingest queue until told to stop by a signal."""
    store = Store.open(settings)
    jobs = IngestJobs(settings, store)
    jobs.sweep()
    run_worker(settings, store, {"ingest_video": jobs.ingest_video})


if __name__ == "__main__":
    run(settings_from_command_line(__doc__))
