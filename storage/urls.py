"""Removes secrets from an address before anyone sees it."""

from urllib.parse import urlsplit, urlunsplit

from storage.text import escape_controls


def redact(url: str) -> str:
    """The URL without user name, password, query and fragment, safe to show."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port is not None else ""
    except ValueError:  # an address that cannot be parsed may hold a password anywhere
        return "(an address that cannot be read)"
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else (parts.hostname or "")
    return escape_controls(urlunsplit((parts.scheme, f"{host}{port}", parts.path, "", "")))
