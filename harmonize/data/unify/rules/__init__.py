"""The `rules` rewriter: questions from the shapes of English sentences, without a model."""

from harmonize.data.unify.rules.rules import VERSION, Rules

__all__ = ["VERSION", "Rules"]
