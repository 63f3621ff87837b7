"""Measures a model on this machine: latency of one stream, throughput of many, beside the roof."""
