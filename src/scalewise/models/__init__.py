"""What runs: the seam that the pipeline knows, and the models behind it."""
