"""The server: the tail of the network, the cohort, aggregation, and its half of the protocol."""
