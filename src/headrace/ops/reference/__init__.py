"""The ops in numpy: float64 defines correct, float32 is the portable fallback."""
