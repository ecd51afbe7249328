"""Sweeps: many runs of one question, resumable at any point, and what they choose."""
