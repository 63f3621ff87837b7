"""From files, environment and flags to the frozen records of `core.config`."""
