"""One picture on this machine: which tiles, what is decided, and the way through them."""
