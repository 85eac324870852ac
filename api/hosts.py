"""Refuses requests for other host names, and changes requested by pages of other sites in the user's browser."""

from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.problems import problem
from configs.settings import ApiSettings

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
OWN_SITE = ("same-origin", "none")  # none: the user's own action, such as typing the address


class HostCheck:
    """ASGI middleware: `Host` must be allowed, and a change must come from our own pages or from no page at all."""

    def __init__(self, app: ASGIApp, *, settings: ApiSettings) -> None:
        self._app = app
        self._hosts = allowed_hosts(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or answers 421 or 403."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            host = headers.get("host", "")
            if host_name(host) not in self._hosts:
                detail = f"this service does not answer for the host {host!r}; use another name, or add it to "
                await problem("host-refused", f"{detail}api.allowed_hosts")(scope, receive, send)
                return
            if scope["method"] not in SAFE_METHODS and not from_own_site(headers):
                detail = "a page of another site asked for this change; use this service's own pages or a client"
                await problem("origin-refused", detail)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def allowed_hosts(settings: ApiSettings) -> frozenset[str]:
    """The names that requests may use for this service, in lower case."""
    names = {name.lower() for name in settings.allowed_hosts}
    try:
        address = ip_address(settings.host)
    except ValueError:
        names.add(settings.host.lower())
    else:
        if not address.is_unspecified:  # 0.0.0.0 means every address, and names no host
            names.add(f"[{address}]" if address.version == 6 else str(address))
    return frozenset(names)


def host_name(host: str) -> str:
    """The name in a `Host` header, without its port, in lower case; empty if the header is invalid."""
    name, bracket, rest = host.lower().rpartition("]")
    if not bracket:
        name, _, rest = host.lower().partition(":")
        rest = rest and f":{rest}"
    return name + bracket if not rest or (rest[0] == ":" and rest[1:].isdigit()) else ""


def from_own_site(headers: Headers) -> bool:
    """Whether the request came from a page of this service, or from no page: only browsers send these headers.

    `Sec-Fetch-Site` decides; browsers send it to loopback and https. Without it, `Origin` must match `Host`.
    A page on another port of this host is another site.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        return site in OWN_SITE
    try:
        return origin is None or urlsplit(origin).netloc.lower() == headers.get("host", "").lower()
    except ValueError:  # an unclosed bracket
        return False
