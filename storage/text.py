"""Makes text that comes from outside safe to show in a terminal, a log or a page."""

import unicodedata

# Control and format characters (bidirectional overrides, zero width), line and paragraph separators, surrogates.
HIDDEN = frozenset(("Cc", "Cf", "Zl", "Zp", "Cs"))


def escape_controls(text: str) -> str:
    r"""`text` with every control or format character spelled out, as \x1b, \u202e or \U000e0001."""
    return "".join(_spell_out(char) if unicodedata.category(char) in HIDDEN else char for char in text)


def _spell_out(char: str) -> str:
    code = ord(char)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
