"""Tokens and who used them: the usage ledger, metering of calls, rate limits."""
