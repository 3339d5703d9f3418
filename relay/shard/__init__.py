"""One shard's way: take it over, read rows, send them, mark them."""
