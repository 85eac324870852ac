"""Text from outside is shown, never obeyed."""

import pytest

from storage.text import escape_controls
from storage.urls import redact


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2J\x00\n\t", "a\\x1b[2J\\x00\\x0a\\x09"),
        ("\x7f\x9b2J\x85", "\\x7f\\x9b2J\\x85"),
        ("\u202egpj.exe\u2066\u200f", "\\u202egpj.exe\\u2066\\u200f"),
        ("\u200b\u200d\ufeff\u2060", "\\u200b\\u200d\\ufeff\\u2060"),
        ("\u2028\u2029", "\\u2028\\u2029"),
        ("\udc9b\U000e0041", "\\udc9b\\U000e0041"),
        ("Zürich \U0001f3a5 東京 ", "Zürich \U0001f3a5 東京 "),
    ],
)
def test_control_characters_are_spelled_out_and_all_others_stay(text: str, shown: str) -> None:
    assert escape_controls(text) == shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://anna:secret@example.org:8443/a.mp4?token=secret#x", "https://example.org:8443/a.mp4"),
        ("http://[::1]:80/a", "http://[::1]:80/a"),
        ("http://example.org/\x9b2J\u202e", "http://example.org/\\x9b2J\\u202e"),
        ("http://anna:secret@[::1/", "(an address that cannot be read)"),
        ("http://anna:secret@example.org:99999/", "(an address that cannot be read)"),
    ],
)
def test_an_address_is_shown_without_secrets(url: str, shown: str) -> None:
    assert redact(url) == shown
