"""Finding the fastest kernels by measuring them: tasks, search, measuring, and the database of what was found."""
