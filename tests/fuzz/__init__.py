"""Fuzzing: what arrives from others is mutated, and rules that hold for every input are checked (docs/fuzzing.md)."""
