"""Layouts of results: each knows the names of its outputs and how the result is published."""
