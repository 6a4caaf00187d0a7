"""Dagster's shell round the engine."""
