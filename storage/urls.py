"""Takes what is secret out of an address before anyone sees it."""

from urllib.parse import urlsplit, urlunsplit


def redact(url: str) -> str:
    """The URL without user name, password, query and fragment."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else (parts.hostname or "")
    return urlunsplit((parts.scheme, f"{host}:{parts.port}" if parts.port else host, parts.path, "", ""))
