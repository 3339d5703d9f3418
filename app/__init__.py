"""The web process: a Flask webhook that answers 202 only after the interaction is committed to the outbox."""
