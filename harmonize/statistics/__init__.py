"""Statistics of a model over rows, taken once and kept: Fisher diagonal, mean gradient, covariances of layers."""

from harmonize.statistics.kept import Statistics
from harmonize.statistics.passes import KINDS, fit_stats

__all__ = ["KINDS", "Statistics", "fit_stats"]
