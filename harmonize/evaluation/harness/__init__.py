"""lm-evaluation-harness on a model in memory, or on anything that behaves like one. Needs the extra `lm-eval`."""

from __future__ import annotations

from importlib.util import find_spec

MISSING = (
    "needs lm-evaluation-harness, which is not installed. Type: pip install 'harmonize[lm-eval]' "
    "(in a checkout: pip install -c constraints.txt -e '.[lm-eval]')"
)


def installed() -> bool:
    """Whether the harness can be imported."""
    return find_spec("lm_eval") is not None
