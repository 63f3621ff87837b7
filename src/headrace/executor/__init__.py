"""Runs a step: scheduler output in, chosen tokens out. Loads weights and plans memory before that."""
