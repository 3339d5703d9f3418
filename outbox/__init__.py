"""The ledger: the only door to the database, used by the web process and by the relay."""
