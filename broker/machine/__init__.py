"""The events and actions of the two state machines, what drives a machine in real time, and its journal."""
