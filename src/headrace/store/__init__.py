"""SQLAlchemy Core on SQLite or PostgreSQL: the database itself, and the API keys in it."""
