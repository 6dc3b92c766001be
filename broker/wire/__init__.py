"""What is said on the wire: messages, chunks, topics, packed integers, and what can be wrong with them."""
