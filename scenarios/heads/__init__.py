"""What of a head devices and server exchange, and how it is packed."""
