"""The exceptions that people see: each is one line that says what is wrong and what to do.

MenagerieError
├── UsageError        the request itself is wrong             exit 2
├── NotFoundError     a name, file or split does not exist    exit 1
├── CorruptError      bytes are not what was published        exit 1
├── DataError         readable, but not what was asked for    exit 1
├── StorageError      the disk said no                        exit 1
├── SourceError       a remote source said no, or nothing     exit 1
└── InterruptedRun    stopped on request, and can go on       exit 130
"""

__all__ = [
    "CorruptError",
    "DataError",
    "InterruptedRun",
    "MenagerieError",
    "NotFoundError",
    "SourceError",
    "StorageError",
    "UsageError",
]


class MenagerieError(Exception):
    """Base of every error this project raises on purpose; `exit_code` is what a command ends with."""

    exit_code = 1


class UsageError(MenagerieError):
    """The request is wrong whatever is on disk: a bad name, a weight below zero, an unknown view set."""

    exit_code = 2


class NotFoundError(MenagerieError):
    """What was named does not exist where it was looked for."""


class CorruptError(MenagerieError):
    """Bytes do not match their sha256, or are not the format they claim to be."""


class DataError(MenagerieError):
    """The content is readable but cannot be used here: other classes, other images, NaN."""


class StorageError(MenagerieError):
    """Writing failed: disk full, no permission. Nothing half-written is left behind."""


class SourceError(MenagerieError):
    """A remote source cannot be reached, refuses, or broke off; what arrived is kept, and the same command goes on.

    `zoo.sources.transport.ConflictError` is one: somebody else published meanwhile.
    """


class InterruptedRun(MenagerieError):  # noqa: N818  # nothing went wrong
    """Long work was stopped on request (Ctrl-C, SIGTERM) after saving its state; the same command goes on."""

    exit_code = 130
