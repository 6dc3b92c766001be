"""What the tail learns by: batches through it, their gradients, and the rule that makes one of many."""
