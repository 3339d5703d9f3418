"""The outbox's schema, step by step, for both databases."""
