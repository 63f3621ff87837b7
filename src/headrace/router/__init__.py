"""A Backend made of Backends: tiers, and which of them serves a request."""
