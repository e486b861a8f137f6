"""One Lightning module per way of training."""
