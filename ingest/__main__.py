"""The ingest worker process: `python -m ingest`."""

import argparse

from configs.loading import load_settings
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


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", help="YAML file, or the name of a bundled one")
    run(load_settings(parser.parse_args().config))


if __name__ == "__main__":
    main()
