"""Tells other programs how a run gets on: TensorBoard, MLflow, and functions of the user's own."""
