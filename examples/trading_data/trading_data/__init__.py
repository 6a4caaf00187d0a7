"""Somebody else's Dagster project."""
