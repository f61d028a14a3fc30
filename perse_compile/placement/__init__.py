"""Where exits pay: places, number and thresholds of exits, searched on a labelled set (docs/placement.md)."""
