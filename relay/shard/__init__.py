"""One shard: take it over, then select, send and mark its rows."""
