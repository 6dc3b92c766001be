"""What is run: scenario files, their schema, and the tasks (data, model, cut, metric)."""
