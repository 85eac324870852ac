"""The capture worker process: `python -m ingest.cameras`."""

from configs.loading import settings_from_command_line
from configs.privacy import keep_files_private
from configs.settings import Settings
from ingest.cameras.declared import DeclaredStreams
from ingest.cameras.publisher import Publisher
from ingest.cameras.recording_publisher import RecordingPublisher
from ingest.cameras.supervisor import KIND, Supervisor
from jobs.worker import Service, name_worker, run_worker
from storage.store import Store


def run(settings: Settings) -> None:
    """Captures this host's share of the cameras until a signal stops it."""
    keep_files_private(settings.data_dir)
    store = Store.open(settings)
    publisher = Publisher(settings, store)
    supervisor = Supervisor(settings, store, publisher, name_worker(KIND))
    recordings = RecordingPublisher(settings, store, publisher.list_captured)
    services: list[Service] = [
        supervisor.assign_forever,
        supervisor.watch_forever,
        publisher.run_forever,
        recordings.run_forever,
    ]
    if settings.cameras.streams_file is not None:
        services.append(DeclaredStreams(settings, store, settings.cameras.streams_file).run_forever)
    run_worker(settings, store, KIND, [], {}, services=services)


if __name__ == "__main__":
    run(settings_from_command_line(__doc__))
