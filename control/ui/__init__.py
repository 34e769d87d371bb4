"""The web page: one module for each of its places."""
