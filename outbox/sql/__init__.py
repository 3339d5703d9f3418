"""The SQL of the outbox: each statement with its full text for each database, in a module named after its user."""
