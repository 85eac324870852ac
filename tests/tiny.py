"""The shipped checkpoint, and settings that use it."""

from pathlib import Path

from configs.loading import load_settings
from configs.settings import Settings

ROOT = Path(__file__).parent.parent
TINY = ROOT / "checkpoints" / "tiny"


def with_tiny(settings: Settings) -> Settings:
    """`settings` with the bundled model, as in `configs/tiny.yaml`."""
    model = load_settings("tiny").model.model_copy(update={"checkpoint": str(TINY)})
    return settings.model_copy(update={"model": model})
