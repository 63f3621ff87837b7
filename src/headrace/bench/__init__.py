"""Measures: a model beside this machine's limits, and an engine or a server under load."""
