"""The wire: typed messages, codecs, topics, transports and brokers."""
