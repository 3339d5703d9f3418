"""The migrations of the outbox's schema, for both databases."""
