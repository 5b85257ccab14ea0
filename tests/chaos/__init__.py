"""Fault injection: jobs are killed, paused and starved of resources, and must not lose data.

Run it with ``make chaos``, which prints its seed and a table. Each trial is determined by the seed and its number.
"""
