"""The ingest worker process: `python -m ingest`."""

from configs.loading import settings_from_command_line
from configs.privacy import keep_files_private
from configs.settings import Settings
from ingest.jobs import IngestJobs
from jobs.names import DELIVER, FETCH, INGEST
from jobs.runner import Handler
from jobs.worker import Pool, run_worker
from storage.store import Store


def run(settings: Settings) -> None:
    """Works until a signal stops it. Downloads and deliveries have their own threads: a slow server delays nothing."""
    keep_files_private(settings.data_dir)
    store = Store.open(settings)
    jobs = IngestJobs(settings, store)
    jobs.sweep()
    handlers = {
        "fetch_video": Handler(jobs.fetch_video, jobs.give_up_video, alone_if_suspect=False),
        "ingest_video": Handler(jobs.ingest_video, jobs.give_up_video),
        "deliver_events": Handler(jobs.deliver_events, jobs.give_up_delivery, alone_if_suspect=False),
    }
    pools = [
        Pool((FETCH,), settings.ingest.concurrent_downloads),
        Pool((INGEST,), settings.ingest.concurrent_videos),
        Pool((DELIVER,), settings.events.concurrent_deliveries),
    ]
    run_worker(settings, store, "ingest", pools, handlers)


if __name__ == "__main__":
    run(settings_from_command_line(__doc__))
