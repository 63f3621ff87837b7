"""Scheduler and executor with text at both ends: what answers a request on this machine."""
