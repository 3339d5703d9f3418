"""The door: a Flask webhook that answers "accepted" only once the interaction is in the outbox."""
