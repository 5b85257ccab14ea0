"""Measurements side by side with other programs. Each `bench_*.py` runs with `python -m benchmarks.bench_...`."""
