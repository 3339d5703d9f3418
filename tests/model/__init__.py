"""The delivery protocol as a model: explored exhaustively, and bound to the real code by a state machine."""
