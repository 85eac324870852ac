"""Makes text from outside safe for the terminal, and keeps its line breaks."""

from storage.text import escape_controls


def escape_lines(text: str) -> str:
    """The text with every control character escaped, except line feeds."""
    return "\n".join(escape_controls(line) for line in text.split("\n"))
