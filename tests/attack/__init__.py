"""Hostile load on loopback: clients without the secret, and honest senders beside them (``make attack``)."""
