"""The preflight check of a plan, before any weights are loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from sdlab.backends.inversion import obstacles
from sdlab.guidance.needs import Offer, lacking
from sdlab.metrics import Subject, complaints, missing_files, unused_files
from sdlab.metrics.base import Need, all_repeat
from sdlab.metrics.round_trip import RoundTripMetric
from sdlab.picture import opened
from sdlab.plugins import Boundary, CodeError
from sdlab.sweep.axes import GUIDANCE, SAMPLER
from sdlab.sweep.needs import Needs, needs
from sdlab.sweep.passes import sigmas_of
from sdlab.sweep.plan import Plan
from sdlab.sweep.prompts import picture_size
from sdlab.sweep.statistics import misfits
from sdlab.system.errors import UsageError
from sdlab.system.output import remark


def check(plan: Plan) -> None:
    """Check that the files of a plan exist, and that its model supports what the plan uses. Notes go to stderr.

    Raises:
        UsageError: a file is missing or the model does not support a setting. The message has one line per problem.
        RunError: a file of the model is damaged.
    """
    needed = needs(plan)
    missing = [
        *plan.opened.check(plan.device, plan.compile, needed.networks, needed.gradients),
        *missing_files(plan.metrics, plan.metric_files),
        *_unreadable_pictures(plan),
    ]
    if wrong := missing or [
        *complaints(plan.metrics, subject(plan)),
        *_impossible(plan),
        *_unanswerable(plan, needed),
        *_one_way(plan),
        *misfits(plan),
    ]:
        raise UsageError(*wrong)
    for key, readers in unused_files(plan.metrics, plan.metric_files).items():
        remark(f"note: metric_files.{key}: has no effect, because it is only for {', '.join(readers)}")
    for cell, why in needed.missed.items():
        remark(f"note: {cell}: {why}")


def subject(plan: Plan) -> Subject:
    """The model of a plan, described for its metrics."""
    model = plan.opened
    offers: dict[Need, bool] = {
        "samples": True,
        "pictures": model.draws_pictures and model.image_size is not None,  # metrics need to know their size
        "prompts": "prompts" not in model.ignores,
        "repeated prompts": "prompts" not in model.ignores and all_repeat(plan.units[: plan.fewest]),
        "inputs": plan.pictures is not None and all(plan.starts_from_a_picture(i) for i in range(len(plan.prompts))),
        "captions": bool(plan.captions),
    }
    return Subject(
        name=model.label,
        images=plan.fewest,
        has=frozenset(need for need, there in offers.items() if there),
        size=None if model.image_size is None else (model.image_size, model.image_size),
        prompts=plan.prompts,
        captions=plan.captions,
        clip=model.has_clip,
        from_noise=plan.pictures is None,
        gaussian=model.law is not None,
        classes=0 if model.classes is None else len(set(model.classes.labels)),
        files=plan.metric_files,
    )


def _unreadable_pictures(plan: Plan) -> Iterator[str]:
    for file in dict.fromkeys(plan.pictures.files if plan.pictures else ()):
        try:
            if file is not None:
                with opened(Path(file)) as picture:
                    picture.load()
        except UsageError as error:
            yield f"image: {error}"


def _unanswerable(plan: Plan, needed: Needs) -> Iterator[str]:
    """What the model lacks for the guidance strategies of a plan, and those that never act, in one line for each."""
    model, faults = plan.opened, dict[str, dict[str, None]]()
    has = Offer(
        model.name, model.conditional, model.layers, model.others, model.labels, "prompts" not in model.ignores,
        model.conditioned_on_pictures, model.masked,
    )  # fmt: skip
    for query, label in needed.queries.items():
        if fault := lacking(query, has):
            faults.setdefault(fault, {})[label] = None
    for label, why in needed.idle.items():
        faults.setdefault(why, {})[label] = None
    for fault, labels in faults.items():
        yield f"guidance: {', '.join(labels)}: {fault}"


def _one_way(plan: Plan) -> Iterator[str]:
    """Why cells cannot be inverted, one line per reason, if a metric asks for it."""
    asking = [metric.name for metric in plan.measures if isinstance(metric, RoundTripMetric)]
    reasons: dict[str, dict[str, None]] = {}
    for cell in plan.cells if asking else ():
        choices = {"sampler": cell.sampler, "grid": cell.grid, "guidance": cell.guidance}
        with suppress(CodeError), Boundary().crossed():
            sampler = SAMPLER.build(cell.sampler.name, **cell.sampler.options)
            strategy = GUIDANCE.build(cell.guidance.name, **cell.guidance.options)
            for what, why in obstacles(sampler, sigmas_of(cell, plan.opened.levels), strategy):
                reasons.setdefault(why, {})[choices[what].label] = None
    for why, labels in reasons.items():
        yield f"metrics: {', '.join(asking)}: {', '.join(labels)} {why}"


def _impossible(plan: Plan) -> Iterator[str]:
    """The settings of a plan that its model does not support, one line each."""
    model = plan.opened
    if plan.pictures is not None and plan.pictures.set is not None:
        side, (height, width) = model.image_size, picture_size(plan.pictures.set)
        if (side, side) != (height, width):
            yield (
                f"image.set: its pictures are {height} × {width}, but those of {model.name} are {side} × {side}; "
                "use `init`, which takes a picture of any size"
            )
    if not plan.metrics and not model.draws_pictures:
        free = 'choose a metric that needs none, like ["reference_error"]'
        yield f"metrics: model {model.name} draws no pictures; {free}"
