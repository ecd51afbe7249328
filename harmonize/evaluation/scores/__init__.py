"""Metrics as pure functions of token statistics, of texts, or of the figures of two models."""
