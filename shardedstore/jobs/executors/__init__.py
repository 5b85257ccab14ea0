"""Executors of tasks: one interface for local schedulers, clusters and lazy jobs."""
