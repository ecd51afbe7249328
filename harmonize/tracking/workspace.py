"""A W&B workspace built by code: the axes over training as panels that line up, trade-offs, attacks, losses, tables.

The library behind it is in public preview, so it stands in this file alone and nothing else depends on it.
"""

from __future__ import annotations

import warnings
from typing import Any

from harmonize.errors import ConfigError, RunError
from harmonize.tracking.tracker import STEP

PANELS = (
    *("forget_accuracy", "forget_heldout_accuracy", "asr_worst"),
    *("neighbor_accuracy", "retain_accuracy", "utility_accuracy"),
)
_PAIRS = (
    ("forget_accuracy", "utility_accuracy"),
    ("asr_worst", "neighbor_accuracy"),
    ("forget_heldout_accuracy", "retain_accuracy"),
)
_ATTACKS = ("asr_opener", "asr_answer_prefix", "asr_worst", "asr_heldout_worst", "relearn_accuracy")
_METHOD = "method.name"


def build_workspace(place: str, study: str) -> Any:
    """The workspace of a study, not saved yet.

    Args:
        place: ENTITY/PROJECT.
        study: The runs' group.

    Raises:
        ConfigError: `place` is not of that form.
        RunError: wandb-workspaces is not installed.
    """
    entity, _, project = place.partition("/")
    if not entity or not project or "/" in project:
        raise ConfigError(f"--wandb {place}: expected ENTITY/PROJECT, for example --wandb my-team/harmonize.")
    ws, wr = _library()
    shares = (0.0, 1.0)

    def curve(name: str, title: str, limits: tuple[float, float] | None = shares) -> Any:
        told = {} if limits is None else {"range_y": limits}
        return wr.LinePlot(
            title=title, x=STEP, y=[name], groupby=wr.Config(_METHOD), groupby_aggfunc="mean",
            groupby_rangefunc="minmax", **told,
        )  # fmt: skip

    def section(name: str, panels: list[Any], rows: int, columns: int = 3) -> Any:
        size = ws.SectionLayoutSettings(columns=columns, rows=rows)
        return ws.Section(name=name, panels=panels, is_open=True, layout_settings=size)

    def words(name: str) -> str:
        return name.replace("_accuracy", "").replace("_", " ")

    def final(name: str) -> Any:
        return wr.SummaryMetric(name)

    def against(x: str, y: str) -> Any:
        title = f"{words(x)} against {words(y)}"
        return wr.ScatterPlot(title=title, x=final(x), y=final(y), range_x=shares, range_y=shares)

    def bars(name: str) -> Any:
        return wr.BarPlot(
            title=words(name), metrics=[final(name)], groupby=wr.Config(_METHOD), range_x=shares
        )

    def all_of(title: str, pattern: str, **limits: Any) -> Any:
        return wr.LinePlot(title=title, x=STEP, metric_regex=pattern, **limits)

    columns = [wr.ParallelCoordinatesPlotColumn(metric=final(name)) for name in PANELS]
    losses = [
        curve("train/loss", "loss", None),
        all_of("weighted terms", "term_weighted/.*"),
        all_of("gradient cosines", "(gradient/)?cosine/.*", range_y=(-1.0, 1.0)),
    ]
    tables = [wr.WeavePanelSummaryTable(table_name=name) for name in ("five_axes", "samples")]
    sections = [
        section("Axes over training (val)", [curve(f"val/{n}", words(n)) for n in PANELS], rows=2),
        section(
            "Trade-offs",
            [*(against(x, y) for x, y in _PAIRS), wr.ParallelCoordinatesPlot(columns=columns)],
            rows=2,
        ),
        section("Attacks", [bars(name) for name in _ATTACKS], rows=2),
        section("Losses and gradients", losses, rows=1),
        section("Tables", tables, rows=2, columns=1),
    ]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"harmonize: {study}",
        sections=sections,
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=100),
        runset_settings=ws.RunsetSettings(
            filters=f'Metric("Group") == {study!r}', groupby=[ws.Config(_METHOD)], pinned_columns=[]
        ),
        auto_generate_panels=False,
    )


def save_workspace(place: str, study: str) -> str:
    """Saves the workspace of a study and returns its address. This goes to the network.

    Raises:
        RunError: No login, no network, or no right to write there.
    """
    workspace = build_workspace(place, study)
    try:
        workspace.save()
    except Exception as error:  # the client's own exceptions have no common base
        raise RunError(
            f"The W&B workspace could not be saved in {place}: {' '.join(str(error).split()) or type(error).__name__}. "
            "It needs the network and a login (`wandb login`, or WANDB_API_KEY) that may write there."
        ) from error
    return str(workspace.url)


def _library() -> tuple[Any, Any]:
    try:
        with warnings.catch_warnings():  # the library's own, about pydantic
            warnings.simplefilter("ignore")
            import wandb_workspaces.reports.v2 as wr
            import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise RunError(
            "wandb-workspaces is not installed. Install it with: pip install 'harmonize[report]', or leave --wandb out."
        ) from error
    return ws, wr
