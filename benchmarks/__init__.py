"""Comparisons within one run, on servers of their own; `python -m benchmarks` prints a table."""
