"""The landscape's figures, on a quadratic worked by hand, and readings of a lens."""

from __future__ import annotations

import numpy as np
import pytest

from harmonize.evaluation.scores.landscape import landscape
from harmonize.evaluation.scores.lens import Reading, decodable, earliest


def test_a_quadratic_by_hand() -> None:
    # loss(k) = 1 + 3k + 2k^2: 1, 6, 15 at 0, 1, 2
    found = landscape(1.0, {1: [6.0], 2: [15.0]})
    assert found.loss == 1.0
    assert found.rise == pytest.approx((5 + 14) / 2)
    assert found.spread == pytest.approx(4.5)
    assert found.steepest == 14.0
    # through (0, 0), (1, 5), (2, 14): mean k 1, mean rise 19/3; sum (k - 1) * rise = 14
    assert found.slope == pytest.approx(14 / 2)
    assert found.curvature == pytest.approx(4.0)  # the second derivative of 2k^2
    assert found.features() == [
        found.loss,
        found.rise,
        found.spread,
        found.steepest,
        found.slope,
        found.curvature,
    ]


def test_draws_count_one_by_one() -> None:
    found = landscape(2.0, {1: [2.0, 4.0], 4: [6.0, 10.0]})
    rises = [0, 2, 4, 8]
    assert found.rise == pytest.approx(np.mean(rises)) and found.spread == pytest.approx(np.std(rises))
    x, y = np.asarray([0, 1, 1, 4, 4]), np.asarray([0, *rises])
    design = np.stack([np.ones(5), x, x**2], 1)
    _, _, square = np.linalg.lstsq(design, y, rcond=None)[0]
    assert found.curvature == pytest.approx(2 * square)
    _, slope = np.linalg.lstsq(design[:, :2], y, rcond=None)[0]
    assert found.slope == pytest.approx(slope)


def test_a_plateau_is_flat() -> None:
    flat = landscape(3.0, {1: [3.0] * 4, 2: [3.0] * 4, 4: [3.0] * 4})
    assert flat.features() == pytest.approx([3.0, 0, 0, 0, 0, 0], abs=1e-12)
    assert landscape(1.0, {2: [5.0]}).curvature == 0.0  # two points make no parabola


def test_a_reading_by_hand() -> None:
    log_probs = np.log(np.asarray([[0.1, 0.4], [0.9, 0.4], [0.5, 0.5]]))
    found = Reading(log_probs, np.asarray([[7, 0], [0, 0], [1, 0]]))
    assert found.depth == 2
    assert found.probability == pytest.approx([0.2, 0.6, 0.5])
    assert found.rank.tolist() == [7, 0, 1] and found.whole.tolist() == [False, True, False]
    assert decodable(found.whole) == 1.0 and decodable(found.rank < 1) == 1.0
    assert decodable(np.asarray([False, False, True])) == 0.0  # the last layer is the output
    assert earliest(found.rank < 5) == 1 and earliest(found.rank < 0) is None
