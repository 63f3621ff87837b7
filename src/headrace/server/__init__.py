"""HTTP: the OpenAI and vLLM dialects over a Backend. Knows `core`, not engines or models."""
