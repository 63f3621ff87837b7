"""Who runs this step, and with how many tokens."""
