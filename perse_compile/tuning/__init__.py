"""Knobs found by measuring: tasks, search, the database of what was found, and the measuring itself."""
