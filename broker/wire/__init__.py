"""What travels: messages, chunks, topics, packed integers; and the error for bytes that break the rules."""
