"""The LLaVA-Mini model (arXiv 2501.03895): one vision token per frame. Knows nothing of videos, Redis or storage.

In this package's comments, `golden/...` is tests/llava_mini/golden: data from the public implementation and notes on
its behaviour.
"""

from llava_mini.model import LlavaMini

__all__ = ["LlavaMini"]
