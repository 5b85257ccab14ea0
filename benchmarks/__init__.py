"""Benchmarks against other programs. Run each `bench_*.py` with `python -m benchmarks.bench_...`."""
