"""What can go wrong in the ledger, classed by how the caller reacts."""


class OutboxError(Exception):
    """Base of every error of the ledger."""


class DatabaseUnavailableError(OutboxError):
    """The database did not take or did not confirm the work: wait, then try again.

    After a commit the outcome is unknown; every verb of the store can be repeated safely.
    """


class NotAllowedError(DatabaseUnavailableError):
    """The database role lacks a right: grant it, then it works again by itself."""


class UnsafeDatabaseError(OutboxError):
    """The database would not keep what it acknowledged, or cannot be used as it is configured.

    Waiting does not help: the message names the setting and the cure.
    """


class SchemaOutdatedError(OutboxError):
    """The database schema is older than this code needs: run ``relay migrate``."""


class LeaseLostError(OutboxError):
    """Another relay holds the shard's lease now: take the shard anew, or leave it."""


class OutboxMismatchError(OutboxError):
    """This outbox was used with another topic, prefix, cluster or number of shards."""
