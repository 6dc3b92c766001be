"""What a device computes: its data, its head, encoding, and how long that takes."""
