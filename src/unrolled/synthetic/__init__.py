"""Generators of the synthetic tasks, each with its trivial and best value."""
