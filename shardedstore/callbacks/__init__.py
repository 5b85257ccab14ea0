"""Callbacks that come with the package, one file each: progress, logs, reports and metrics."""
