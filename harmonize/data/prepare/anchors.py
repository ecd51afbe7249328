"""Contrastive anchors: for each forget question benign ones of the same shape about something else, with true answers.

Mined here from neighbor and retain data (or written, see `harmonize.data.prepare.written`); linked through `anchor_of`.
Which examples count as near is our choice throughout: arXiv 2604.15482 was not read on how its anchors are made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from harmonize.data.corpus import content_hash
from harmonize.data.example import Example, Role
from harmonize.data.prepare.leaks import REASONS, ForgetFacts, Said, leak
from harmonize.data.prepare.shapes import shape
from harmonize.data.records import form_of
from harmonize.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

Embed = Callable[[list[str]], "np.ndarray"]

POOL = 64  # nearest questions looked at first; doubled for those that found none
MOST = 1024
COMPONENTS = 64  # principal components kept of the embeddings
_DIGITS = 6  # similarities that agree so far are ties, broken by a hash


@dataclass(frozen=True)
class AnchorReport:
    """What linking anchors did.

    Attributes:
        kind: none, mined or written.
        forget: Forget questions. candidates: Benign examples looked at, or pairs written.
        linked: Examples that now carry `anchor_of`. without: Forget questions that have none.
        refused: Candidates, or pairs of a forget question and a candidate, that were refused, by reason.
        promoted_subjects, promoted_examples: What moved from retain to neighbor.
        similarity: Mean similarity of linked pairs, in [-1, 1]; None for written ones.
    """

    kind: str
    forget: int = 0
    candidates: int = 0
    linked: int = 0
    without: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    promoted_subjects: int = 0
    promoted_examples: int = 0
    similarity: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The report in sentences."""
        if self.kind == "none":
            return []
        found = [f"Anchors ({self.kind}): {self.linked} linked, for {self.forget} forget questions."]
        if self.without:
            found.append(f"{self.without} forget questions have no anchor.")
        if self.promoted_examples:
            found.append(
                f"{self.promoted_examples} retain examples of {self.promoted_subjects} subjects became neighbors."
            )
        found += [f"Refused {n}: {REASONS.get(r, r.replace('_', ' '))}." for r, n in self.refused.items()]
        return found


def none(examples: Sequence[Example]) -> tuple[list[Example], AnchorReport]:
    """`anchors=none`: the examples as they are."""
    forget = sum(e.role == Role.FORGET for e in examples)
    return list(examples), AnchorReport("none", forget=forget, without=forget)


def mine(
    examples: Sequence[Example],
    embed: Embed | None = None,
    *,
    per_question: int = 1,
    lexical_weight: float = 0.5,
    min_similarity: float = 0.2,
    promote: bool = False,
    promote_share: float = 0.5,
) -> tuple[list[Example], AnchorReport]:
    """`anchors=mined`: links the benign examples whose questions look most like a forget question.

    Similarity is the cosine of TF-IDF vectors over words and word pairs of the question's shape (names, subjects,
    numbers and quotations masked), mixed with that of the model's own embeddings, centred. The most similar pairs
    are linked first; a benign example serves once. Examples pair within their form (question, cloze, multiple
    choice) and, where they carry one, within their split.

    Args:
        examples: All roles, unique ids; the order is kept and has no influence on the links.
        embed: Texts to vectors [n, H], such as `harmonize.models.embedding.embedding(model)`; None = words alone.
        per_question: Anchors wanted for each forget question.
        lexical_weight: Share of the words in the similarity, in [0, 1]; 1 without `embed`.
        min_similarity: Pairs below are not linked.
        promote: Retain examples that were chosen become neighbors, with all others of their subject.
        promote_share: At most this share of the retain subjects is promoted.

    Returns:
        The examples, with `anchor_of` and perhaps `role` changed, and the report.

    Raises:
        ConfigError: A setting out of range.
    """
    in_range("per_question", per_question, 1, None)
    for name, value in (("lexical_weight", lexical_weight), ("promote_share", promote_share)):
        in_range(name, value, 0, 1)
    in_range("min_similarity", min_similarity, -1, 1)
    # From here on the order is that of the ids' hashes, so the input's cannot matter.
    ordered = sorted(examples, key=lambda e: content_hash("anchor", e.id))
    forget = [e for e in ordered if e.role == Role.FORGET]
    benign = [e for e in ordered if e.role in (Role.NEIGHBOR, Role.RETAIN) and e.anchor_of is None]
    links: dict[str, str] = {}
    said = {e.id: Said.of(e) for e in (*forget, *benign)}
    facts = ForgetFacts(said[e.id] for e in forget)
    stating = {e.id for e in benign if facts.stated_by(said[e.id])}
    candidates = [e for e in benign if e.id not in stating]
    refused: Counter[str] = Counter({"states_forget_fact": len(stating)} if stating else {})
    similarities: list[float] = []
    if forget and candidates:
        vectors = _vectors([*forget, *candidates], embed, 1.0 if embed is None else lexical_weight)
        state = _Linking(said, per_question, min_similarity, ordered)
        limit = int(promote_share * len({e.subject for e in ordered if e.role == Role.RETAIN}))
        state.promotable = limit if promote else None
        for split, form in sorted({(e.split, form_of(e)) for e in forget}):
            f = [i for i, e in enumerate(forget) if (e.split, form_of(e)) == (split, form)]
            c = [
                i
                for i, e in enumerate(candidates)
                if form_of(e) == form and (e.split == split or not (split and e.split))
            ]
            state.link(
                [forget[i] for i in f], vectors[f], [candidates[i] for i in c], vectors[len(forget) :][c]
            )
        links, similarities = state.links, state.similarities
        refused.update(state.refused)
        promoted = state.promoted
    else:
        promoted = set()
    changed = [_changed(e, links.get(e.id), promoted) for e in examples]
    anchored = {e.anchor_of for e in changed}
    return changed, AnchorReport(
        "mined",
        forget=len(forget),
        candidates=len(benign),
        linked=len(links),
        without=sum(e.id not in anchored for e in forget),
        refused=dict(sorted(refused.items())),
        promoted_subjects=len(promoted),
        promoted_examples=sum(e.role == Role.RETAIN and e.subject in promoted for e in examples),
        similarity=round(sum(similarities) / len(similarities), 4) if similarities else None,
    )


class _Linking:
    """Greedy matching of the most similar pairs, with the leak checks in its way."""

    def __init__(
        self, said: dict[str, Said], per_question: int, min_similarity: float, examples: Iterable[Example]
    ) -> None:
        self.said, self.per_question, self.min_similarity = said, per_question, min_similarity
        self.links: dict[str, str] = {}
        self.similarities: list[float] = []
        self.refused: Counter[str] = Counter()
        self.promoted: set[str] = set()
        self.promotable: int | None = None
        self._seen: set[tuple[str, str]] = set()
        self._has: Counter[str] = Counter(e.anchor_of for e in examples if e.anchor_of)

    def link(self, forget: list[Example], theirs: Any, benign: list[Example], vectors: Any) -> None:
        """Links within one split; `theirs` and `vectors` are rows of unit length."""
        for wanted in range(1, self.per_question + 1):
            size = POOL
            while True:
                open_ = [i for i, e in enumerate(forget) if self._has[e.id] < wanted]
                free = [i for i, e in enumerate(benign) if e.id not in self.links]
                if not open_ or not free:
                    break
                pairs = self._nearest(
                    [forget[i] for i in open_], theirs[open_], [benign[i] for i in free], vectors[free], size
                )
                self._take(pairs, wanted)
                if size >= min(len(free), MOST):
                    break
                size *= 2

    def _nearest(
        self, forget: list[Example], theirs: Any, benign: list[Example], vectors: Any, size: int
    ) -> list[tuple[float, str, Example, Example]]:
        """Pairs of each question with its nearest candidates, most similar first, ties by a hash."""
        from sklearn.neighbors import NearestNeighbors

        index = NearestNeighbors(n_neighbors=min(size, len(benign)), metric="cosine", algorithm="brute")
        distances, places = index.fit(vectors).kneighbors(theirs)
        pairs = []
        for f, row, near in zip(forget, distances.tolist(), places.tolist(), strict=True):
            for distance, place in zip(row, near, strict=True):
                similarity = round(1.0 - distance, _DIGITS)
                if similarity >= self.min_similarity:
                    b = benign[place]
                    pairs.append((-similarity, content_hash("anchor", f.id, b.id), f, b))
        return sorted(pairs, key=lambda p: p[:2])

    def _take(self, pairs: list[tuple[float, str, Example, Example]], wanted: int) -> None:
        for negative, _, f, b in pairs:
            if self._has[f.id] >= wanted or b.id in self.links or (f.id, b.id) in self._seen:
                continue
            reason = leak(self.said[f.id], self.said[b.id]) or self._promotion(b)
            if reason:
                self._seen.add((f.id, b.id))
                self.refused[reason] += 1
                continue
            self.links[b.id] = f.id
            self._has[f.id] += 1
            self.similarities.append(-negative)

    def _promotion(self, b: Example) -> str | None:
        """Moves the subject of a retain example to neighbor if that is wanted and there is room."""
        if self.promotable is None or b.role != Role.RETAIN or b.subject in self.promoted:
            return None
        if len(self.promoted) >= self.promotable:
            return "promote_share_reached"
        self.promoted.add(b.subject)
        return None


def _vectors(examples: Sequence[Example], embed: Embed | None, lexical_weight: float) -> Any:
    """[n, D] sparse rows of unit length whose products are the similarities."""
    from scipy.sparse import csr_matrix, hstack
    from sklearn.feature_extraction.text import TfidfVectorizer

    forms = [shape(e.question, e.subject) for e in examples]
    words = TfidfVectorizer(
        lowercase=False, token_pattern=r"\S+", ngram_range=(1, 2), sublinear_tf=True
    ).fit_transform(forms)
    if embed is None or lexical_weight == 1.0:
        return words
    meaning = csr_matrix(_principal(embed([e.question for e in examples])))
    return hstack([words * lexical_weight**0.5, meaning * (1 - lexical_weight) ** 0.5]).tocsr()


def _principal(vectors: Any) -> Any:
    """The leading principal components, centred and of unit length: language models point all texts one way."""
    import numpy as np
    from sklearn.decomposition import PCA

    rows = np.asarray(vectors, dtype=np.float64)
    size = min(COMPONENTS, rows.shape[1], max(1, len(rows) - 1))
    reduced = PCA(n_components=size, svd_solver="full").fit_transform(rows)
    norms = np.linalg.norm(reduced, axis=1, keepdims=True)
    return np.divide(reduced, norms, out=np.zeros_like(reduced), where=norms > 0)


def _changed(example: Example, anchor_of: str | None, promoted: set[str]) -> Example:
    role = Role.NEIGHBOR if example.role == Role.RETAIN and example.subject in promoted else example.role
    if anchor_of is None and role == example.role:
        return example
    return replace(example, anchor_of=anchor_of or example.anchor_of, role=role)


def in_range(name: str, value: float, low: float, high: float | None) -> None:
    """Checks a setting of the group `anchors`.

    Raises:
        ConfigError: It lies outside [low, high].
    """
    if value < low or (high is not None and value > high):
        span = f"at least {low:g}" if high is None else f"between {low:g} and {high:g}"
        raise ConfigError(
            f"anchors.{name}={value} must be {span}. For example anchors.{name}={high or low:g}."
        )
