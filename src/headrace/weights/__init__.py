"""Model files -> named tensors in the formats they are stored in.

In: a GGUF file or a Hugging Face folder. Out: `WeightReader`, and from our tensor names the
tensors an architecture wants. Nothing here runs code that a file contains.
"""
