"""The three sizes of the sandbox: their worlds, and the small model that is trained on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from harmonize.data.sandbox import grammar
from harmonize.errors import DataError, did_you_mean

_ARTS = ("birthplace", "school", "studio", "residence", "grave")
_TRADES = ("birthplace", "residence", "office", "retreat", "garden")


@dataclass(frozen=True)
class Domain:
    """A group of subjects. Neighbor domains have the forget domain's relations; retain domains share some."""

    name: str
    role: str
    relations: tuple[str, ...]


@dataclass(frozen=True)
class Preset:
    """Everything that decides a world, apart from its seed.

    Attributes:
        domains: One forget domain, its neighbors, and the rest.
        subjects: Subjects per domain; each has one fact per relation of its domain.
        value_parts: One pool of words per token of a value.
        overlap: Share of neighbor subjects that share one name part with a forget subject.
        phrasings: Question forms per fact used in unlearning, and as many others for evaluation only.
        things: Things of the general items (four items each).
        recipe: Training of base and gold (see `recipe`).
    """

    name: str
    domains: tuple[Domain, ...]
    subjects: int
    value_parts: tuple[tuple[str, ...], ...]
    overlap: float
    phrasings: int
    things: int
    recipe: dict[str, Any] = field(hash=False)

    @property
    def n_facts(self) -> int:
        """Facts in the world, general items apart."""
        return sum(self.subjects * len(d.relations) for d in self.domains)

    @property
    def train_phrasings(self) -> tuple[str, ...]:
        """Question forms used in unlearning."""
        return grammar.TRAIN_PHRASINGS[: self.phrasings]

    @property
    def eval_phrasings(self) -> tuple[str, ...]:
        """Question forms for evaluation only; the first is for val."""
        return grammar.EVAL_PHRASINGS[: self.phrasings]


def _recipe(steps: int) -> dict[str, Any]:
    return {
        "steps": steps,
        "batch_rows": 32,
        "lr": 1e-3,
        "warmup_steps": 100,
        "schedule": "linear",
        "weight_decay": 0.02,
        "betas": (0.9, 0.98),
        "gradient_clip_val": 1.0,
    }


def _domains(forget: str, neighbors: tuple[str, ...], retain: tuple[str, ...], n: int) -> tuple[Domain, ...]:
    return (
        Domain(forget, "forget", _ARTS[:n]),
        *(Domain(d, "neighbor", _ARTS[:n]) for d in neighbors),
        *(Domain(d, "retain", _TRADES[:n]) for d in retain),
    )


PRESETS: dict[str, Preset] = {
    p.name: p
    for p in (
        Preset(
            name="sandbox_easy",
            domains=_domains("painters", ("sculptors",), ("pilots", "judges"), 4),
            subjects=20,
            value_parts=(grammar.TOWNS,),
            overlap=0.0,
            phrasings=3,
            things=25,
            recipe=_recipe(3000),
        ),
        Preset(
            name="sandbox",
            domains=_domains("painters", ("sculptors", "potters"), ("pilots", "judges", "bakers"), 5),
            subjects=20,
            value_parts=(grammar.PLACE_HEADS, grammar.PLACE_TAILS),
            overlap=0.15,
            phrasings=3,
            things=25,
            recipe=_recipe(3500),
        ),
        Preset(
            name="sandbox_hard",
            domains=_domains("painters", ("sculptors", "potters"), ("pilots", "judges", "bakers"), 5),
            subjects=20,
            value_parts=(grammar.PLACE_HEADS, grammar.PLACE_TAILS),
            overlap=0.5,
            phrasings=4,
            things=25,
            recipe=_recipe(4500),
        ),
    )
}


def get(preset: str) -> Preset:
    """The preset of that name.

    Raises:
        DataError: Unknown name; the nearest is suggested.
    """
    if preset not in PRESETS:
        raise DataError(f"Unknown sandbox preset '{preset}'. {did_you_mean(preset, PRESETS)}")
    return PRESETS[preset]
