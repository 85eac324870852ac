"""Serves the page at /docs from this package's own files, so it works offline and contacts no other host."""

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
    """Serves the page."""
    return FileResponse(FOLDER / "index.html", headers=HEADERS, media_type="text/html")


@router.get("/docs/{name}")
def part(name: str) -> FileResponse:
    """Serves a script or the style sheet of the page."""
    if name not in FILES:
        raise NotFound(f"/docs has no file {name!r}")
    return FileResponse(FOLDER / name, headers=HEADERS, media_type=FILES[name])
