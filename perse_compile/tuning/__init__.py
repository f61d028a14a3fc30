"""The search for the fastest schedules, measured on the device they are for."""
