"""The predictions of a model for the queries of a strategy, batched and counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from math import hypot, sqrt
from typing import NamedTuple

import torch
from torch import Tensor

import samplers
from samplers.checks import look_up
from sdlab.denoiser import Model, Sigma
from sdlab.guidance.base import ContextNoise, Found, Input, Level, Query, with_sources
from sdlab.guidance.rows import column, groups, joined, take
from sdlab.model.attention_maps import AttentionMaps
from sdlab.model.perturbation import Perturbation, RandomPerturbation

Encode = Callable[[Sequence[str]], Tensor]  # prompts -> contexts, one row per prompt
_Attention = dict[tuple[Query, tuple[str, ...]], Tensor]  # of a prediction in some layers: (B, H, W)


class Predictions:
    """Answers queries in as few calls of the networks as possible, and counts the rows that reach them."""

    def __init__(
        self,
        model: Model,
        contexts: Mapping[str, Tensor],
        seeds: Sequence[int] | None,
        encode: Encode | None,
        name: str,
    ) -> None:
        """See `Guided`; all contexts have a row per image. `name` is that of the strategy, for messages."""
        self.rows = 0
        self._contexts, self._images = contexts, len(next(iter(contexts.values())))
        self._model: Callable[..., Tensor] = model  # takes keywords if a query needs them
        self._seeds, self._name = list(seeds or ()), name
        self._streams = [samplers.philox([seed]) for seed in self._seeds]  # the sampler's noise is not Philox noise
        self._encode, self._encoded = encode, dict[str, Tensor]()  # the contexts of further prompts, (1, …)
        self._queried, self._plan = list[tuple[Query, ...]](), _Plan([])  # of the last call; the next is often alike

    def __call__(
        self, x: Tensor, sigma: Sigma, levels: Sequence[Level], queried: Sequence[tuple[Query, ...]]
    ) -> dict[Query, Tensor]:
        """x̂₀ (B, …) of each query, with NaN for images without that query.

        A network is called once for all queries of x itself, again for those with a loss, and again for those whose
        inputs are made from these.

        Args:
            x: the states (B, …).
            sigma: their level, a float or one per image (B,).
            levels: the same, as one level per image.
            queried: the queries of each image.
        """
        if queried != self._queried:
            self._queried, self._plan = list(queried), _Plan(queried)
        found, attention = dict[Query, Tensor](), _Attention()
        for call in self._plan.calls:
            if call.plain:
                seen = [take(x, rows) for rows in call.rows]
                at = torch.cat([take(sigma, rows) for rows in call.rows]) if isinstance(sigma, Tensor) else sigma
                parts = self._network(call, seen, at, attention)
            else:
                asked = []
                for query, rows in zip(call.queries, call.rows, strict=True):
                    given = own = take(x, rows)
                    if query.input is not None:
                        given = take(_made(query.input, x, levels, rows, found, attention), rows)
                    asked.append(_Asked(query, own, given, [levels[i] for i in rows]))
                parts = self._answers(call, asked, sigma, attention)
            for query, rows, part in zip(call.queries, call.rows, parts, strict=True):
                found[query] = joined([(rows, part)], x.shape[0])
        return found

    def _answers(self, call: _Call, asked: Sequence[_Asked], sigma: Sigma, attention: _Attention) -> Sequence[Tensor]:
        """x̂₀ of each query of a call, all with a loss or all without."""
        if asked[0].query.loss is None:
            return self._predicted(call, asked, sigma, attention)
        with torch.inference_mode(False), torch.enable_grad():  # sampling is without gradients otherwise
            tracked = [one.tracked() for one in asked]
            found = self._predicted(call, tracked, sigma, attention)
            losses = torch.cat([one.loss(x0) for one, x0 in zip(tracked, found, strict=True)])
            if not losses.requires_grad:
                raise ValueError(f"{self._name} needs gradients, which the model does not give")
            gradients = torch.autograd.grad(losses.sum(), [one.own for one in tracked])
        return [one.lowered(x0.detach(), g) for one, x0, g in zip(tracked, found, gradients, strict=True)]

    def _predicted(self, call: _Call, asked: Sequence[_Asked], sigma: Sigma, attention: _Attention) -> list[Tensor]:
        """x̂₀ of each query before it is moved by a loss."""
        if isinstance(sigma, Tensor) or call.labelled:
            like = sigma if isinstance(sigma, Tensor) else asked[0].own
            sigma = like.new_tensor([label for one in asked for label in one.labels])
        found = self._network(call, [one.seen for one in asked], sigma, attention)
        return [one.prediction(part) for one, part in zip(asked, found, strict=True)]

    def _network(self, call: _Call, seen: list[Tensor], sigma: Sigma, attention: _Attention) -> Sequence[Tensor]:
        """What the network finds for each query. Adds the attention that is wanted to `attention`."""
        x = torch.cat(seen)
        arguments = call.arguments or self._arguments(call)
        options = arguments.options
        if arguments.attention:
            maps = AttentionMaps(chain.from_iterable(layers for _, layers in arguments.attention))
            options = {**options, "attention": maps}
        found = self._model(x, sigma, arguments.contexts, **options).split_with_sizes(call.counts)
        self.rows += x.shape[0]
        for k, layers in arguments.attention:
            part = maps.mean(layers, (x.shape[-2], x.shape[-1])).split(call.counts)[k]
            attention[call.queries[k], layers] = joined([(call.rows[k], part.detach())], self._images)
        return found

    def _arguments(self, call: _Call) -> _Arguments:
        """The arguments of a call that do not depend on x. They are kept with it unless contexts get noise."""
        asked = list(zip(call.queries, call.rows, strict=True))
        perturbation = tuple(chain.from_iterable(self._perturbation(*one) for one in asked))
        network = call.queries[0].network
        options: dict[str, object] = {} if network is None else {"network": network}
        if any(perturbation):
            options["perturbation"] = perturbation
        if any(one is not None and one.point == "cross_attention" for one in perturbation):
            options["negative"] = torch.cat([self._named(query.negative, rows) for query, rows in asked])
        wanted = [(k, layers) for k, q in enumerate(call.queries) for layers in self._plan.layers.get(q, ())]
        contexts = torch.cat([self._context(query, rows) for query, rows in asked])
        arguments = _Arguments(contexts, options, wanted)
        if all(query.noise is None for query in call.queries):
            call.arguments = arguments
        return arguments

    def _perturbation(self, query: Query, rows: list[int]) -> Sequence[Perturbation | None]:
        """The perturbation of a query for these images, with the seed of each if it is random.

        Raises:
            ValueError: it is random and there are no seeds.
        """
        one = query.perturbation
        if not isinstance(one, RandomPerturbation):
            return [one] * len(rows)
        if not self._seeds:
            raise ValueError(f"{self._name} is random and needs `seeds`, one per image")
        return [replace(one, seed=self._seeds[i]) for i in rows]

    def _named(self, name: str, rows: list[int]) -> Tensor:
        return take(look_up("context", name, self._contexts), rows)

    def _prompt(self, text: str, count: int) -> Tensor:
        """The context of a further prompt, for this many images."""
        if self._encode is None:
            raise ValueError(f"{self._name} has the prompt {text!r} and needs `encode`")
        if text not in self._encoded:
            self._encoded[text] = self._encode([text])
        context = self._encoded[text]
        return context.expand(count, *context.shape[1:])

    def _context(self, query: Query, rows: list[int]) -> Tensor:
        """The contexts of a query for these images, with its noise.

        Raises:
            ValueError: there is no such context, there is no `encode` for a prompt, or the noise has no seeds or would
                be added to class labels.
        """
        context = self._named(query.context, rows) if query.prompt is None else self._prompt(query.prompt, len(rows))
        if query.noise is None:
            return context
        if not context.is_floating_point():
            raise ValueError(f"{self._name} adds noise to the condition, which class labels cannot have")
        if not self._streams:
            raise ValueError(f"{self._name} adds noise to the condition and needs `seeds`, one per image")
        white = torch.cat([self._streams[i](context[[k]]) for k, i in enumerate(rows)])
        return _noised(context, white, query.noise)


class _Arguments(NamedTuple):
    """The arguments of a network call beside x and σ."""

    contexts: Tensor
    options: dict[str, object]  # keywords of `Model`
    attention: list[tuple[int, tuple[str, ...]]]  # the layers whose maps are wanted, with the position of their query


class _Call:
    """A call of one network: its queries and the rows of each."""

    def __init__(self, queries: list[Query], rows: list[list[int]]) -> None:
        self.queries, self.rows = queries, rows
        self.counts = [len(some) for some in rows]
        self.labelled = any(query.label is not None for query in queries)
        moved = any(query.input is not None or query.loss is not None for query in queries)
        self.plain = not (self.labelled or moved)  # the network is given x at its level, and its prediction is x̂₀
        self.arguments: _Arguments | None = None  # if they are the same every time


class _Asked:
    """What the network gets for one query of some images, and how x̂₀ follows."""

    def __init__(self, query: Query, own: Tensor, given: Tensor, levels: Sequence[Level]) -> None:
        """`own` is x of these images at their `levels`, and `given` is x or the input in its place."""
        self.query, self.own, self._levels = query, own, levels
        self.labels = levels if query.label is None else [query.label] * len(levels)
        self.seen = given
        if query.label is not None:
            self.seen = given * column([hypot(1, query.label) / hypot(1, s) for s in levels], own)

    def prediction(self, found: Tensor) -> Tensor:
        """x̂₀ at x and its level, of the ε that the model found for what it was given."""
        if self.query.label is None and self.query.input is None:
            return found
        ratios = [s / label for s, label in zip(self._levels, self.labels, strict=True)]
        return self.own - column(ratios, self.own) * (self.seen - found)

    def tracked(self) -> _Asked:
        """The same for a copy of x, in which gradients are tracked."""
        own = self.own.detach().clone().requires_grad_()
        return _Asked(self.query, own, own, self._levels)

    def loss(self, x0: Tensor) -> Tensor:
        """The loss of x̂₀, (B,)."""
        assert self.query.loss is not None
        values = self.query.loss.of(x0)
        if not isinstance(values, Tensor) or values.shape != (len(x0),):
            found = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(
                f"{type(self.query.loss).__name__} must return one value per image, ({len(x0)},); got {found}"
            )
        return values

    def lowered(self, x0: Tensor, gradient: Tensor) -> Tensor:
        """x̂₀ moved by the gradient of its loss in x."""
        return x0 - column([s * s for s in self._levels], x0) * gradient


class _Plan:
    """The calls of networks that answer the queries of each image, in order."""

    def __init__(self, queried: Sequence[tuple[Query, ...]]) -> None:
        images: dict[Query, list[int]] = {}
        for i, queries in enumerate(queried):
            for query in with_sources(queries):
                images.setdefault(query, []).append(i)
        self.calls = list[_Call]()
        known = set[Query]()
        while len(known) < len(images):
            ready = [q for q in images if q not in known and (q.input is None or q.input.of in known)]
            for at in groups((query.network, query.loss is not None) for query in ready).values():
                self.calls.append(_Call([ready[k] for k in at], [images[ready[k]] for k in at]))
            known.update(ready)
        self.layers: dict[Query, set[tuple[str, ...]]] = {}  # of the attention that inputs are made from
        for query in images:
            if query.input is not None and query.input.layers:
                self.layers.setdefault(query.input.of, set()).add(query.input.layers)


def _made(
    given: Input,
    x: Tensor,
    levels: Sequence[Level],
    rows: list[int],
    found: Mapping[Query, Tensor],
    attention: _Attention,
) -> Tensor:
    """The input (B, …) of these images, each at its level. Other rows are NaN."""
    x0, maps, parts = found[given.of], attention.get((given.of, given.layers)), []
    for level, at in groups(levels[i] for i in rows).items():
        some = [rows[k] for k in at]
        source = Found(take(x0, some), None if maps is None else take(maps, some))
        made = given.at(source, take(x, some), level)
        if not isinstance(made, Tensor) or made.shape != source.x0.shape:
            what = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
            raise ValueError(f"{type(given).__name__} turns x of shape {tuple(source.x0.shape)} into {what}")
        parts.append((some, made))
    return joined(parts, len(x))


def _noised(context: Tensor, white: Tensor, noise: ContextNoise) -> Tensor:
    """A context (B, …) with noise; see `ContextNoise`."""
    y = context.flatten(1)
    noisy = sqrt(noise.keep) * y + noise.size * sqrt(1 - noise.keep) * white.flatten(1)
    spread, mean = torch.std_mean(noisy, dim=1, correction=0, keepdim=True)
    wanted, center = torch.std_mean(y, dim=1, correction=0, keepdim=True)
    # A context of one value has no spread, and keeps its noise.
    like_y = torch.where(spread > 0, center + (noisy - mean) * wanted / spread, noisy)
    return torch.lerp(noisy, like_y, noise.rescale).view_as(context)
