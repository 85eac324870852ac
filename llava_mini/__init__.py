"""The LLaVA-Mini model (arXiv 2501.03895): one vision token per frame. Knows nothing of videos, Redis or our files."""
