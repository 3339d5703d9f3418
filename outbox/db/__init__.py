"""Engines, transactions, the schema, and what databases say of themselves."""
