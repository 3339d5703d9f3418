"""The demo: every process on this machine, the relay killed on the way, and a count at the end."""
