"""Neural networks that several tasks share."""
