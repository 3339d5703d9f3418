"""Verification: what the topics hold, compared with the outbox."""
