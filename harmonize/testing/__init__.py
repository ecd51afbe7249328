"""Checks for objectives of one's own: one entry per objective, and everything that each must meet.

    from harmonize.testing import Entry, check_objective

    def test_my_loss():
        check_objective(Entry(my_loss, {"beta": 0.5}, at=lambda p: 0.5 * p.log_p))

The tests of the objectives that ship use the same entries and checks.
"""

from harmonize.testing.objectives import CHECKS, At, Entry, World, check_objective

__all__ = ["CHECKS", "At", "Entry", "World", "check_objective"]
