"""PostgreSQL backups that prove themselves."""

__version__ = "0.1.0"
