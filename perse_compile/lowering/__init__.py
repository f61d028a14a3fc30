"""From a program to scheduled kernels and the straight-line plans that call them. Imports tvm."""
