"""Text from outside, made safe for the terminal but for its line ends."""

from storage.text import escape_controls


def escape_lines(text: str) -> str:
    """The text with every control character spelled out, except line feeds."""
    return "\n".join(escape_controls(line) for line in text.split("\n"))
