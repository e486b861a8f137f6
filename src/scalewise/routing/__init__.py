"""Who decides: one mechanism a file."""
