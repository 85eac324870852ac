"""Where the shipped checkpoint lies, and the settings that name it."""

from pathlib import Path

from configs.loading import load_settings
from configs.settings import Settings

ROOT = Path(__file__).parent.parent
TINY = ROOT / "checkpoints" / "tiny"


def with_tiny(settings: Settings) -> Settings:
    """`settings`, with the bundled model as `configs/tiny.yaml` has it."""
    model = load_settings("tiny").model.model_copy(update={"checkpoint": str(TINY)})
    return settings.model_copy(update={"model": model})
