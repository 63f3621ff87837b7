"""From a request's sampling parameters to the rows that the sampling ops read."""
