"""The relay: moves outbox rows into Kafka transactions exactly once, and calls inference afterwards."""
