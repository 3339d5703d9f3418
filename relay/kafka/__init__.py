"""Kafka and the Schema Registry: clients, records, topics, encoding."""
