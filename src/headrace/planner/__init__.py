"""What to run where, what it costs and how well it does: measured, planned, shown."""
