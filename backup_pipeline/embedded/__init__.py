"""A real PostgreSQL and a real S3 server from wheels, for the demo, development and tests."""
