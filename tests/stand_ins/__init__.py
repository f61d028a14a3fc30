"""What tests talk to instead of hardware."""
