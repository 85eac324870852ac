"""The LLaVA-Mini model (arXiv 2501.03895): one vision token per frame. Knows nothing of videos, Redis or our files.

`golden/...` in this package's comments is tests/llava_mini/golden: data from the public implementation, and its habits.
"""

from llava_mini.model import LlavaMini

__all__ = ["LlavaMini"]
