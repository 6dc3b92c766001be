"""State machines without input and output: their events and actions, and what drives them in real time."""
