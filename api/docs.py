"""The page at /docs, from files of this package alone: it works offline, and no other host learns of it."""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

from storage.errors import NotFound

FOLDER = Path(__file__).parent / "static" / "docs"
FILES = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript", "start.js": "text/javascript"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {"content-security-policy": POLICY, "x-content-type-options": "nosniff"}

router = APIRouter(include_in_schema=False)


@router.get("/docs")
def page() -> FileResponse:
    """The page."""
    return FileResponse(FOLDER / "index.html", headers=HEADERS, media_type="text/html")


@router.get("/docs/{name}")
def part(name: str) -> FileResponse:
    """What the page is made of."""
    if name not in FILES:
        raise NotFound(f"/docs has no file {name!r}")
    return FileResponse(FOLDER / name, headers=HEADERS, media_type=FILES[name])
