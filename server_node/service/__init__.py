"""A server, and the broker beside it, as services of their machine."""
