"""The command line: one file per command, opened only when that command runs."""
