"""A modelled network in virtual time: links, broker, presence."""
