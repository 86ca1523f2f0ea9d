"""The errors that Parallax raises, each a condition that carries its data and writes its own text.

ParallaxError
 ├─ ConfigurationError    a setting or a tables file is wrong; stops a program at its start
 ├─ BadRecord             bytes in a log, feed or snapshot that this version cannot read
 ├─ BadEntry              what a publisher sent does not fit the table; it is refused with this text
 ├─ PublishError          what a program publishes cannot be handed to Redis; nothing of it was dropped silently
 ├─ EngineRefused         the engine would not apply an operation that had passed validation
 ├─ ChunksGone            a large value's chunks expired, because a newer one replaced it or somebody deleted them
 ├─ SnapshotUnusable      a snapshot is missing chunks, or is not what its manifest says
 ├─ BadRequest            the leader cannot create, alter or drop a table as it was asked
 ├─ TableRequestRefused   the same, as the one who asked sees it
 ├─ CannotAlter           a table's rows do not fit the spec that it shall have
 ├─ Forked                the log is not the one that this coordinator appended to
 └─ SteppedDown           this coordinator is not, or no longer, the one who may append
"""


class ParallaxError(Exception):
    """The base of all errors raised by Parallax."""


class ConfigurationError(ParallaxError):
    """One or more settings are wrong. `problems` holds one readable line for each."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class BadRecord(ParallaxError):
    """Bytes that are no record of a version that this program reads."""


class BadEntry(ParallaxError):
    """A publisher's entry that does not fit its table; the text says what, where and what to do."""


class PublishError(ParallaxError):
    """Redis does not take what is published, or not in time; the text says why and what to do."""


class EngineRefused(ParallaxError):
    """The engine refused a validated operation: the replica can no longer claim to equal the log."""

    def __init__(self, table: str, operation: str, reason: str) -> None:
        self.table, self.operation, self.reason = table, operation, reason
        super().__init__(f"table {table!r}: the engine refused {operation}: {reason}")


class ChunksGone(ParallaxError):
    """Chunks of a snapshot or of a record's payload that are no longer in Redis."""


class SnapshotUnusable(ParallaxError):
    """A snapshot that cannot be loaded."""


class BadRequest(ParallaxError):
    """A request about a table that cannot be followed."""


class TableRequestRefused(ParallaxError):
    """The leader refused to create, alter or drop a table, or nobody answered."""


class CannotAlter(ParallaxError):
    """A change of a table's spec that its rows do not allow; nothing was changed."""


class Forked(ParallaxError):
    """The log went back or was replaced under its leader, who starts over from what is there."""


class SteppedDown(ParallaxError):
    """The right to append was lost, or was never there."""


class StartAfresh(ParallaxError):
    """A service has ended well, and wants to be started again."""
