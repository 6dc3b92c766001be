"""Cuts a model in two at a layer that is named: no line of the model need be written again."""
