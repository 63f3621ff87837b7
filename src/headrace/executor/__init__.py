"""Runs a step: scheduler output in, chosen tokens out. Before that, plans memory and loads."""
