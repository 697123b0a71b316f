"""Benchmarks: figures, and what they are compared with in the same run. They are no tests."""
