"""The Android example: what of it can be tested without Android."""
