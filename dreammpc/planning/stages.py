"""The protocols of a planner's stages, and the check that stages fit together."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from dreammpc.planning.context import PlanningContext
    from dreammpc.planning.search import SearchState, Selection

Shapes = dict[str, tuple[int, ...]]
"""Names and shapes, without [B], of a warm start's entries."""


class Proposal(Protocol):
    """The first stage: makes the first candidates."""

    def count(self) -> int:
        """N."""
        ...

    def carry_shapes(self, final: int, horizon: int, action_dim: int) -> Shapes:
        """What it wants in the next call's warm start, for `final` candidates at the end."""
        ...

    def carry(self, state: "SearchState", sequence: Tensor) -> dict[str, Tensor]:
        """Those values, given the final state and the chosen sequence [B, H, A]."""
        ...

    def __call__(self, context: "PlanningContext") -> "SearchState": ...


class Refinement(Protocol):
    """A stage between: makes better candidates. What it wants in the next call is in `SearchState.carry`."""

    def count(self, incoming: int) -> int:
        """Candidates out for candidates in.

        Raises:
            ValueError: a number of candidates that it cannot take.
        """
        ...

    def carry_shapes(self, incoming: int, horizon: int, action_dim: int) -> Shapes:
        """What it puts into `SearchState.carry`."""
        ...

    def __call__(self, context: "PlanningContext", state: "SearchState") -> "SearchState": ...


class Selector(Protocol):
    """The last stage: chooses the sequence that is executed."""

    def __call__(self, context: "PlanningContext", state: "SearchState") -> "Selection": ...


def check_stages(propose: object, refine: object, select: object) -> None:
    """Raise ValueError if a stage is of another kind than belongs in its place."""
    check_stage("propose", propose, "carry", "PolicyRollouts()")
    if not isinstance(refine, Sequence) or isinstance(refine, str):
        raise ValueError(f"refine must be a list of refinements, got {refine!r}")
    for stage in refine:
        check_stage("refine", stage, "carry_shapes", "GaussianRefit() or GradientAscent()", not_a="carry")
    check_stage("select", select, "__call__", "SelectBest()", not_a="carry_shapes")


def check_stage(place: str, stage: object, method: str, example: str, not_a: str = "") -> None:
    """Raise ValueError unless `stage` has `method`, and not the method `not_a`."""
    other = not_a and hasattr(stage, not_a)
    if isinstance(stage, type | str) or not hasattr(stage, method) or other:
        raise ValueError(f"{place} takes {example} or the like, got {stage!r}")


def carry_shapes(propose: Proposal, refine: Sequence[Refinement], horizon: int, action_dim: int) -> Shapes:
    """The warm start of a planner with these stages.

    Raises:
        ValueError: the stages do not fit together.
    """
    shapes: Shapes = {}
    count = propose.count()
    for stage in refine:
        shapes = merged(shapes, stage.carry_shapes(count, horizon, action_dim))
        count = stage.count(count)
    if count < 1:
        raise ValueError(
            "no candidates to choose from: the proposal must draw some, or a GaussianRefit follow"
        )
    return merged(propose.carry_shapes(count, horizon, action_dim), shapes)


def candidate_count(propose: Proposal, refine: Sequence[Refinement]) -> int:
    """N of the last stage's candidates."""
    count = propose.count()
    for stage in refine:
        count = stage.count(count)
    return count


def merged(shapes: Shapes, other: Shapes) -> Shapes:
    """Both together; ValueError where both have a name."""
    twice = sorted(set(shapes) & set(other))
    if twice:
        raise ValueError(f"two stages want to carry {twice[0]!r}; only one of a planner's stages may")
    return {**shapes, **other}
