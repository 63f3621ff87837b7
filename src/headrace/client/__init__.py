"""Other servers as Backends: connections, retries, event streams, and the words of their APIs."""
