"""Adds what CXone's API knows of an interaction, before its rows are sent."""
