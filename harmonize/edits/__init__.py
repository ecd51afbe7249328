"""Edits of weights after training: pure functions from state dicts and statistics to the tensors that change."""
