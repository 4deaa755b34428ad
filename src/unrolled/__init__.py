"""Unrolled: experiments with sequence models on event data."""

__version__ = "0.1.0"
