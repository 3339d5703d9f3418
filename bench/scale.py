"""Scale-out: the same backlog, drained by one, two and four relays in turn."""

from typing import Any

from bench.drain import drain
from bench.place import Place, fill
from bench.report import ratio, spread
from outbox.engine import create_outbox_engine

RELAYS = (1, 2, 4)


def measure(place: Place, kind: str, count: int, rounds: int, shards: int) -> dict[str, Any]:
    """Rates by number of relays; ratios against one."""
    rates: dict[int, list[float]] = {relays: [] for relays in RELAYS}
    database: dict[int, list[float]] = {relays: [] for relays in RELAYS}
    for _ in range(rounds):
        for relays in RELAYS:
            url = place.make(kind, shards)
            engine = create_outbox_engine(url)
            fill(engine, count)
            rate, cost = drain(place, url, engine, count, shards, relays)
            rates[relays].append(rate)
            database[relays].append(cost["database CPU us/row"])
            engine.dispose()
    return {
        f"{relays} relay(s)": {
            "rows/s": spread(rates[relays]),
            "of one": ratio(rates[relays], rates[1]),
            "database CPU us/row": spread(database[relays], 1),
        }
        for relays in RELAYS
    }
