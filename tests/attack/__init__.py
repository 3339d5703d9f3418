"""Attacks over loopback: hostile clients without the secret, next to honest ones (``make attack``)."""
