"""Executors: each runs tasks in its own way, behind one interface."""
