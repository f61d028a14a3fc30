"""Placement of exits on a labelled set."""
