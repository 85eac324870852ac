"""The errors of a source. A SourceError fails the video for good, unless it is listed as retried.

SourceError
 ├─ UnsupportedSource    not a video that can be read (text, audio only, a playlist, an unknown codec)
 ├─ SourceUnavailable    it cannot be fetched or opened
 │   └─ SourceInterrupted   a server was busy or broke off: retried
 ├─ SourceTooLarge       more bytes, seconds, pixels or streams than the settings allow
 └─ FetchRefused         an address or path that the settings do not allow
"""

from storage.errors import LongwatchError


class SourceError(LongwatchError):
    """Base: the source is at fault, not this service."""

    code = "source"


class UnsupportedSource(SourceError):
    """Not a video that can be read."""

    code = "source-unsupported"


class SourceUnavailable(SourceError):
    """The source cannot be fetched or opened."""

    code = "source-unavailable"


class SourceInterrupted(SourceUnavailable):
    """The server was busy or broke off: the next try may succeed."""


class SourceTooLarge(SourceError):
    """More bytes, seconds, pixels or streams than the settings allow."""

    code = "source-too-large"


class FetchRefused(SourceError):
    """An address or path that the settings do not allow."""

    code = "source-refused"
