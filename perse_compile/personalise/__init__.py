"""The host side of the trainer: reading a person's images, training exits, calibrating them."""
