"""What can go wrong in the ledger, classed by how the caller reacts."""

MIGRATE = "relay migrate"
"""The command that brings the schema to this version's."""


class OutboxError(Exception):
    """Base of every error of the ledger."""


class DatabaseUnavailableError(OutboxError):
    """The database did not take or did not confirm the work: wait, then try again.

    After a commit the outcome is unknown; every verb of the store can be repeated safely.
    """


class NotAllowedError(DatabaseUnavailableError):
    """The database role lacks a right: grant it, then it works again by itself."""


class ConnectionLostError(DatabaseUnavailableError):
    """The connection ended in use, or its session cannot be used any more, while the database may be in order.

    What was under way may be done or not. The pool was emptied: the next attempt has a fresh connection.
    """


class UnsafeDatabaseError(OutboxError):
    """The database would not keep what it acknowledged, or cannot be used as it is configured.

    Waiting does not help: the message names the setting and the cure.
    """


class UnfitEncodingError(UnsafeDatabaseError):
    """The database cannot store every character that an interaction may hold."""


class SchemaOutdatedError(OutboxError):
    """The database schema is older than this code needs: migrate it."""


class LeaseLostError(OutboxError):
    """Another relay holds the shard's lease now: take the shard anew, or leave it."""


class OutboxMismatchError(OutboxError):
    """This outbox was used with another topic, prefix, cluster or number of shards."""
