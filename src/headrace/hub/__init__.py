"""From a model's name to verified files on this machine."""
