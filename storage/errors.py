"""The exceptions of Longwatch: each says what failed, where, and what to do.

LongwatchError
 ├─ NotFound             no such video, question, segment or frame
 ├─ BadRequest           the caller asked for something impossible (a stretch that ends before it starts)
 ├─ Conflict             the request clashes with what is there
 ├─ Surroundings         not the fault of the job at hand: it is tried again when they are back
 │   ├─ ArchiveUnavailable   the archive cannot be read or written
 │   ├─ RedisUnavailable     Redis does not answer
 │   └─ DiskFull             a disk of this host has no room
 ├─ StateRebuilding      Redis lost its state; it is being read from the archive
 ├─ DamagedState         a value in Redis is none of ours; it is rebuilt
 ├─ DamagedFile          a stored file is unreadable; it is reported by path
 ├─ ForeignRecord        a record of another model or format; it is reported by path and rebuilt
 ├─ NewerDocument        a document was written by a newer Longwatch
 ├─ GivenAway            this attempt was taken for dead and another goes on with the job
 └─ JobNotAllowed        a queued job names a function that is not ours
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
    """The request clashes with what is there; the message says what to do first."""

    code = "conflict"


class Surroundings(LongwatchError):
    """Archive, Redis or disk failed: no job is to blame, and it is tried again when they are back."""

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
    """A value in Redis is none of ours."""

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
    """This attempt was taken for dead, and another goes on with the job: what this one writes no longer counts."""

    code = "given-away"


class JobNotAllowed(LongwatchError):
    """A queued job names a function that is not ours."""

    code = "job-not-allowed"
