"""librdkafka's mock cluster in a process of its own: ``python -m relay.demo.mock_broker TOPIC...``.

It has these topics, because nobody can create one there as the relay does on a real cluster. Prints the
address of its broker and stays up until it is ended. It commits transactions, but isolates nothing and
fences nobody, and it forgets old records: good for a look, never for a proof.
"""

import sys
import threading

from confluent_kafka import Producer


def main() -> None:
    """Run the cluster until the process is ended."""
    producer = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "none", "log_level": 0})
    (broker,) = producer.list_topics(timeout=10).brokers.values()
    for topic in sys.argv[1:]:
        producer.list_topics(topic, timeout=10)  # the mock makes what it is asked about
    sys.stdout.write(f"{broker.host}:{broker.port}\n")
    sys.stdout.flush()
    threading.Event().wait()


if __name__ == "__main__":
    main()
