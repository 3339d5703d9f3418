"""Run librdkafka's mock cluster in a process of its own: ``python -m relay.demo.mock_broker TOPIC...``.

Prints the broker's address and runs until it is stopped. It creates the topics, because its admin API cannot.
The mock commits transactions but neither isolates nor fences, and it drops old records: it shows how the relay
works, but proves nothing.
"""

import sys
import threading

from confluent_kafka import Producer


def main() -> None:
    """Run the cluster until the process is stopped."""
    producer = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "none", "log_level": 0})
    (broker,) = producer.list_topics(timeout=10).brokers.values()
    for topic in sys.argv[1:]:
        producer.list_topics(topic, timeout=10)  # the mock creates a topic when asked about it
    sys.stdout.write(f"{broker.host}:{broker.port}\n")
    sys.stdout.flush()
    threading.Event().wait()


if __name__ == "__main__":
    main()
