"""The exceptions of Longwatch: each says what failed, where, and what to do.

LongwatchError
 ├─ NotFound             no such video, question, segment or frame
 ├─ BadRequest           the caller asked for something impossible (a stretch that ends before it starts)
 ├─ Conflict             the request conflicts with the present state
 ├─ Surroundings         archive, Redis or disk failed: no job is to blame, and it is tried again later
 │   ├─ ArchiveUnavailable   the archive cannot be read or written
 │   ├─ RedisUnavailable     Redis does not answer
 │   └─ DiskFull             a disk of this host has no room
 ├─ StateRebuilding      Redis lost its state; it is being read from the archive
 ├─ DamagedState         a value in Redis is damaged; it is rebuilt
 ├─ DamagedFile          a stored file is unreadable; it is reported by path
 ├─ ForeignRecord        a record of another model or format; it is reported by path and rebuilt
 ├─ NewerDocument        a document was written by a newer Longwatch
 ├─ GivenAway            another attempt took over the job: this one no longer counts
 └─ JobNotAllowed        a queued job names a function that Longwatch does not run
"""


class LongwatchError(Exception):
    """Base of every error that Longwatch raises on purpose; `code` is the stable part of the API's problem type."""

    code = "internal"


class NotFound(LongwatchError):
    """There is no such video, question, segment or frame."""

    code = "not-found"


class BadRequest(LongwatchError):
    """The caller asked for something impossible; the message says what would be possible."""

    code = "bad-request"


class Conflict(LongwatchError):
    """The request conflicts with the present state; the message says what to do first."""

    code = "conflict"


class Surroundings(LongwatchError):
    """Archive, Redis or disk failed: no job is to blame, and it is tried again later."""

    code = "surroundings"


class ArchiveUnavailable(Surroundings):
    """The archive cannot be read or written."""

    code = "archive-unavailable"


class RedisUnavailable(Surroundings):
    """Redis does not answer."""

    code = "redis-unavailable"


class DiskFull(Surroundings):
    """A disk of this host has no room."""

    code = "disk-full"


class StateRebuilding(LongwatchError):
    """Redis lost its state; a worker is reading it from the archive again."""

    code = "state-rebuilding"


class DamagedState(LongwatchError):
    """A value in Redis is damaged, or was not written by Longwatch."""

    code = "state-damaged"


class DamagedFile(LongwatchError):
    """A stored file is unreadable."""

    code = "file-damaged"


class ForeignRecord(LongwatchError):
    """A record belongs to another model or format version."""

    code = "record-foreign"


class NewerDocument(LongwatchError):
    """A document was written by a newer Longwatch: this one must not touch it."""

    code = "newer-version"


class GivenAway(LongwatchError):
    """Another attempt took over the job, because this one seemed dead: its writes no longer count."""

    code = "given-away"


class JobNotAllowed(LongwatchError):
    """A queued job names a function that Longwatch does not run."""

    code = "job-not-allowed"
