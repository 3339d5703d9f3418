"""The errors of the outbox, classed by what the caller does about them."""

MIGRATE = "relay migrate"
"""The command that brings the schema to this version's."""


class OutboxError(Exception):
    """Base of every error of the outbox."""


class DatabaseUnavailableError(OutboxError):
    """The database did not accept or did not confirm the work: wait, then try again.

    After a commit the outcome is unknown; every method of ``Store`` can safely be repeated.
    """


class NotAllowedError(DatabaseUnavailableError):
    """The database role lacks a privilege: once it is granted, the next attempt succeeds."""


class ConnectionLostError(DatabaseUnavailableError):
    """The connection ended in use, or its session can no longer be used, while the database may be available.

    The work may be done or not. The pool was emptied, so the next attempt has a fresh connection.
    """


class UnsafeDatabaseError(OutboxError):
    """The database would not keep what it acknowledged, or cannot be used as it is configured.

    Waiting does not help: the message names the setting and the remedy.
    """


class UnfitEncodingError(UnsafeDatabaseError):
    """The database's encoding cannot store every character."""


class SchemaOutdatedError(OutboxError):
    """The database schema is older than this version needs: migrate it."""


class LeaseLostError(OutboxError):
    """Another relay holds the shard's lease: take the shard again, or leave it."""


class InvalidRequestError(OutboxError):
    """A person asked for what the rules of the operation do not allow: the message says what is expected.

    Nothing was read or changed. The person corrects the request.
    """


class OutboxMismatchError(OutboxError):
    """This outbox was used with another topic, prefix, cluster or number of shards."""
