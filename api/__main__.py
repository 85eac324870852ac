"""The API process: `python -m api`."""

from api.serve import serve
from configs.loading import settings_from_command_line
from configs.privacy import keep_files_private
from configs.settings import Settings


def run(settings: Settings) -> None:
    """Serves until told to stop by a signal."""
    keep_files_private(settings.data_dir)
    serve(settings)


if __name__ == "__main__":
    run(settings_from_command_line(__doc__))
