"""Our own weight files, and reading any without trusting it."""
