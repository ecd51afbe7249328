"""The cache directory: what lies there, what is in use, and what may go. Without torch."""
