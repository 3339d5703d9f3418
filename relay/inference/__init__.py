"""Calls the inference endpoint for each sent row, after its commit."""
