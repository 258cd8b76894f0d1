"""Checks of every guidance strategy, on a small network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from torch import Tensor

from sdlab.certify.checks import Broken, Check, measuring
from sdlab.certify.strategies.network import IMAGES, SIGMAS, Recorded, Rows, guided, plain, run, sampled
from sdlab.guidance import Query, State, Strategy
from sdlab.guidance.base import COND, Level, Stated, queries_of, with_sources
from sdlab.guidance.space import SPACES, Space, from_space, to_space

_SAME, _OTHER = 1e-9, 1e-5  # relative distances: rounding below the first, a change above the second


def checks(strategy: Strategy) -> list[Check]:
    """Run every check. An exception in the strategy fails the check."""
    return [check_of(name, check, strategy) for name, check in _CHECKS.items()]


def check_of(name: str, check: Callable[[Strategy], str | None], strategy: Strategy) -> Check:
    """The outcome of one check. It returns a detail, or None if it does not apply."""
    try:
        with measuring():
            detail = check(strategy)
    except Broken as error:
        return Check(name, False, str(error))
    return Check(name, None if detail is None else True, detail or "not claimed")


def distance(a: Tensor, b: Tensor) -> float:
    """The least relative distance of two batches over their images."""
    gaps, sizes = ((one.flatten(1).norm(dim=1)) for one in (a - b, b))
    return float((gaps / sizes).min())


def furthest(a: Tensor, b: Tensor) -> float:
    """The largest relative distance of two batches over their images."""
    gaps, sizes = ((one.flatten(1).norm(dim=1)) for one in (a - b, b))
    return float((gaps / sizes).max())


def _neutral(strategy: Strategy) -> str | None:
    """The neutral setting is the plain conditional model, at its cost."""
    if not isinstance(strategy, Stated):
        return None
    options = dict(strategy.neutral)
    rows = Rows()
    neutral = run(_with(strategy, options), counted=rows)
    if (gap := furthest(neutral, plain())) > _SAME:
        raise Broken(f"with {_text(options)} its pictures differ by {gap:.2g} from those of the plain model")
    if (passes := rows.count / IMAGES) != _calls():
        raise Broken(f"with {_text(options)} it makes {passes:g} passes in {_calls()} calls")
    return f"{_text(options)} is the plain model at its cost"


def _differs(strategy: Strategy) -> str:
    """Each further prediction differs from D(c), and so do the pictures unless the defaults are neutral."""
    recorded = Recorded(strategy)
    gap = distance(run(recorded), plain())
    seen: dict[str, list[float]] = {}
    for queries, found in recorded.calls:
        for query in queries:
            if query != COND:
                seen.setdefault(_kind(query), []).append(distance(found[query], found[COND]))
    for kind, gaps in seen.items():
        if max(gaps) < _OTHER:
            raise Broken(f"the {kind} is the plain one at every level")
    if isinstance(strategy, Stated) and all(getattr(strategy, k) == v for k, v in strategy.neutral.items()):
        return "the defaults are neutral"
    if gap < _OTHER:
        raise Broken("its pictures are those of the plain model")
    levels = [f"the {kind} at {sum(g > _OTHER for g in gaps)} of {len(gaps)} levels" for kind, gaps in seen.items()]
    return ", ".join([*levels, f"pictures by {gap:.2g}"])


def _alone(strategy: Strategy) -> str:
    """An image has the same result alone and in a batch of eight, with the noise of its seed."""
    together = run(strategy)
    for i in (0, IMAGES // 2, IMAGES - 1):
        if (gap := furthest(run(strategy, [i]), together[[i]])) > _SAME:
            raise Broken(f"image {i} of {IMAGES} differs by {gap:.2g} when sampled alone")
    return f"an image alone is the image in a batch of {IMAGES}"


def _resets(strategy: Strategy) -> str:
    """A run does not depend on earlier runs."""
    images = [0, 1]
    recorded = Recorded(strategy)
    first = run(recorded, images)
    run(strategy, [2, 3])
    if (gap := furthest(run(strategy, images), first)) > _SAME:
        raise Broken(f"the second run differs by {gap:.2g} from the first")
    if not recorded.states:
        return "no state"
    return f"{recorded.states} tensor{'s' * (recorded.states != 1)} of state, reset by every run"


def _passes(strategy: Strategy) -> str:
    """The rows that reach the network are those queried, and those counted."""
    images, rows, recorded = range(IMAGES), Rows(), _Asked(strategy)
    denoise = guided(recorded, images, rows)
    recorded.count = 0
    sampled(denoise, images)
    if not rows.count == round(denoise.passes * IMAGES) == recorded.count:
        raise Broken(f"{recorded.count} passes queried, {denoise.passes * IMAGES:g} counted, {rows.count} made")
    passes = rows.count / IMAGES / _calls()
    return f"{passes:.3g} pass{'es' * (passes != 1)} per call"


def _space(strategy: Strategy) -> str | None:
    """An affine strategy gives the same picture in x̂₀, ε and v; others differ from what they are in another space."""
    if not isinstance(strategy, Stated):
        return None
    given = run(strategy)
    if strategy.space == "any":
        for space in SPACES:
            if (gap := furthest(run(_InSpace(strategy, space)), given)) > 1e-6:
                raise Broken(f"space is 'any', but in {space} its pictures differ by {gap:.2g}")
        return "the same pictures in x0, eps, v and flow"
    others = [space for space in SPACES if space != strategy.space]
    gaps = {space: furthest(run(_moved(strategy, space)), given) for space in others}
    if max(gaps.values()) < _OTHER:
        raise Broken(f"its space is {strategy.space}, but its pictures are the same in all spaces; it should be 'any'")
    return f"in {strategy.space}; pictures differ in " + ", ".join(f"{k} by {v:.2g}" for k, v in gaps.items())


@dataclass
class _Asked:
    """A strategy whose queries are counted, one image at a time."""

    strategy: Strategy
    count: int = 0

    def queries(self, sigma: Level) -> tuple[Query, ...]:
        return self.strategy.queries(sigma)

    def queries_given(self, sigma: Level, state: State) -> tuple[Query, ...]:
        found = queries_of(self.strategy, sigma, state)
        self.count += len(with_sources(found))
        return found

    def combine(self, predictions: tuple[Tensor, ...], x: Tensor, sigma: Level, state: State) -> tuple[Tensor, State]:
        return self.strategy.combine(predictions, x, sigma, state)


@dataclass(frozen=True)
class _InSpace:
    """A strategy that gets its predictions in another space, as if they were x̂₀."""

    strategy: Strategy
    space: Space

    def queries(self, sigma: Level) -> tuple[Query, ...]:
        return self.queries_given(sigma, None)

    def queries_given(self, sigma: Level, state: State) -> tuple[Query, ...]:
        return queries_of(self.strategy, sigma, state)

    def combine(self, predictions: tuple[Tensor, ...], x: Tensor, sigma: Level, state: State) -> tuple[Tensor, State]:
        moved = tuple(to_space(self.space, one, x, sigma) for one in predictions)
        made, state = self.strategy.combine(moved, x, sigma, state)
        return from_space(self.space, made, x, sigma), state


def _moved(strategy: Strategy, space: Space) -> Strategy:
    """The strategy in another space than its own."""
    if is_dataclass(strategy) and "space" in {field.name for field in fields(strategy)}:
        return _with(strategy, {"space": space})
    return _InSpace(strategy, space)  # it works in x̂₀


def _with(strategy: Strategy, options: dict[str, Any]) -> Strategy:
    return replace(strategy, **options)  # type: ignore[type-var]


def _calls() -> int:
    """Denoiser calls of a run: Heun's method makes one in its last step."""
    return 2 * (len(SIGMAS) - 1) - 1


def _kind(query: Query) -> str:
    """What is changed in a prediction, in words."""
    changes = [
        "" if query.context == "cond" else f"prediction of {query.context}",
        "" if query.prompt is None else f"prediction of the prompt {query.prompt!r}",
        "prediction of another network" if query.network is not None else "",
        "perturbed prediction" if query.perturbation is not None else "",
        "prediction with another label" if query.label is not None else "",
        "prediction with noise on its context" if query.noise is not None else "",
        "prediction for another input" if query.input is not None else "",
        "prediction moved by a loss" if query.loss is not None else "",
    ]
    return " and ".join(filter(None, changes))


def _text(options: dict[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in options.items()) or "no option"


_CHECKS: dict[str, Callable[[Strategy], str | None]] = {
    "neutral": _neutral,
    "differs": _differs,
    "images": _alone,
    "state": _resets,
    "passes": _passes,
    "space": _space,
}
