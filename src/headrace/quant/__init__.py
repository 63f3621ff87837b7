"""How numbers are stored: formats, block layouts, and tensors that keep their raw blocks.

In: bytes of a tensor and the name of its format. Out: exact integers and scales, or floats.
Knows nothing of files, models or devices.
"""
