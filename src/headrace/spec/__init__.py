"""Speculation: what tokens may come next, and how many of them are worth computing at once."""
