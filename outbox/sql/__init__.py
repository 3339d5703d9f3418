"""The statements of the outbox, as SQL."""
