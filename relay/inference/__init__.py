"""Calls of the inference endpoint: when, how often, and what an answer means."""
