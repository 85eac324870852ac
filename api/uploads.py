"""Receives an uploaded file in pieces, within its limit, into the folder that ingest reads."""

import hashlib
from pathlib import Path

from starlette.datastructures import UploadFile

from api.problems import TooLarge

CHUNK_BYTES = 1 << 20


async def receive(upload: UploadFile, into: Path, limit_bytes: int) -> str:
    """Writes the upload to `into`; its sha256. Raises TooLarge, and leaves nothing behind then."""
    into.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    try:
        with into.open("wb") as file:
            while chunk := await upload.read(CHUNK_BYTES):
                size += len(chunk)
                if size > limit_bytes:
                    raise TooLarge(f"the file is larger than {limit_bytes} bytes (api.max_upload_bytes)")
                digest.update(chunk)
                file.write(chunk)
    except BaseException:
        into.unlink(missing_ok=True)
        raise
    return digest.hexdigest()
