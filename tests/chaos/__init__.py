"""Jobs that are killed, paused and starved of what they need, again and again, and what was lost by it: nothing.

Run by ``make chaos``, which prints its seed and a table. Each trial draws all that it does from the seed and its number.
"""
