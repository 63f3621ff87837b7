"""Text to tokens and back: tokenizers, chat templates, incremental detokenizing, stop strings.

Control plane: standard library, `tokenizers` and `jinja2` only.
"""
