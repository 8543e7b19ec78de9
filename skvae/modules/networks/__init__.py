"""Networks: layers, convolutions, their specifications, and the one place that decides which a model gets."""
