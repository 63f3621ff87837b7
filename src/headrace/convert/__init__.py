"""Model files made smaller, offline: which format each tensor gets, and the GGUF file of it all.

In: a GGUF file or a Hugging Face folder, perhaps a text to calibrate with. Out: a GGUF file that
other engines read too. Holds a piece of one tensor as floats at a time.
"""
