"""The exceptions of Longwatch: each says what failed, where, and what to do.

LongwatchError
 ├─ NotFound             no such video, question, segment or frame
 ├─ BadRequest           the caller asked for something that cannot be (a stretch that ends before it starts)
 ├─ Conflict             what was asked for clashes with what is there
 ├─ ArchiveUnavailable   the archive cannot be read or written
 ├─ RedisUnavailable     Redis does not answer
 ├─ DamagedRecord        a stored file is unreadable; it is reported by path and rebuilt
 ├─ ForeignRecord        a record of another model or format; it is reported by path and rebuilt
 └─ JobNotAllowed        a queued job names a function that is not ours
"""


class LongwatchError(Exception):
    """Base of every error that Longwatch raises on purpose; `code` is the stable part of the API's problem type."""

    code = "internal"


class NotFound(LongwatchError):
    """There is no such video, question, segment or frame."""

    code = "not-found"


class BadRequest(LongwatchError):
    """The caller asked for something that cannot be; the message says what would be possible."""

    code = "bad-request"


class Conflict(LongwatchError):
    """What was asked for clashes with what is there; the message says what to do first."""

    code = "conflict"


class ArchiveUnavailable(LongwatchError):
    """The archive cannot be read or written."""

    code = "archive-unavailable"


class RedisUnavailable(LongwatchError):
    """Redis does not answer."""

    code = "redis-unavailable"


class DamagedRecord(LongwatchError):
    """A stored file is unreadable."""

    code = "record-damaged"


class ForeignRecord(LongwatchError):
    """A stored file belongs to another model or format version."""

    code = "record-foreign"


class JobNotAllowed(LongwatchError):
    """A queued job names a function that is not ours."""

    code = "job-not-allowed"
