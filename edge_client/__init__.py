"""A device: the head of the network, its private data, and its half of the protocol."""
