"""Finding the fastest kernels by measuring them: tasks, search, the database of what was found, and measuring itself."""
