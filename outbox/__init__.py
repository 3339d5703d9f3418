"""The outbox tables: the only code that accesses the database, for the webhook, the relay and operators."""
