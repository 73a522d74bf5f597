"""The layers through which everything flows, read off the autograd graph of one forward pass.

A vertex is a tensor: the node that made it, and which of the node's results it is. In

    x -> conv -> relu -> add -> mean -> score
                   \\_ norm _/                        # a residual connection

every way from x to the score leads through conv, relu and add, and none of them alone leads through
norm. Written in an order in which each tensor comes after those that it is made of, no edge jumps
over a tensor through which all ways lead. One sweep over that order finds them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import torch
from torch.autograd.graph import Node, get_gradient_edge

__all__ = ["Graph"]

Vertex: TypeAlias = "tuple[Node, int]"
"""The node of the graph that made a tensor, and which of its results the tensor is."""


class Graph:
    """What is noted while a model runs: its inputs, and where its layers' outputs are."""

    def __init__(self) -> None:
        self.starts: list[torch.Tensor] = []
        self.vertices: dict[str, Vertex] = {}
        self.originals: dict[Vertex, Vertex] = {}

    def start(self, value: Any) -> Any:
        """The value to run with in place of an input."""
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        self.starts.append(value.detach().clone().requires_grad_())
        return self.starts[-1].clone()  # the model may write in place into its inputs

    def tap(self, path: str, value: torch.Tensor) -> torch.Tensor:
        """A clone, as any tap returns: one tensor may be several layers' output, and each is a way
        of its own.
        """
        if not value.requires_grad:
            return value
        clone = value.clone()
        vertex = _vertex_of(value)
        self.vertices[path] = _vertex_of(clone)
        self.originals[self.vertices[path]] = self.originals.get(vertex, vertex)
        return clone

    def gates(self, score: torch.Tensor) -> dict[str, int] | None:
        """The layers through which every way leads, each with a number of its value."""
        total = score.sum()
        if not total.requires_grad:
            return None
        found = _gates(_vertex_of(total), {_vertex_of(tensor) for tensor in self.starts})
        if not found:  # not even the score: no input leads to it
            return None
        numbers: dict[Vertex, int] = {}
        layers = {}
        for path, vertex in self.vertices.items():
            if vertex in found:
                layers[path] = numbers.setdefault(self.originals[vertex], len(numbers))
        return layers


def _vertex_of(tensor: torch.Tensor) -> Vertex:
    """Where a tensor is in the graph. It must require a gradient."""
    edge = get_gradient_edge(tensor)
    return edge.node, edge.output_nr


def _gates(score: Vertex, starts: set[Vertex]) -> set[Vertex]:
    """The tensors through which every way from the starts to the score leads."""
    order = _between(score, starts)
    position = {vertex: n for n, vertex in enumerate(order)}
    # how far the edges lead that start so far; several inputs are made of one, before them all
    reach = max((position[vertex] for vertex in starts if vertex in position), default=0)
    farthest: dict[Vertex, int] = {}
    for n, vertex in enumerate(order):
        for source in _sources(vertex):
            farthest[source] = n
    found = set()
    for n, vertex in enumerate(order):
        if reach <= n:
            found.add(vertex)
        reach = max(reach, farthest.get(vertex, n))
    return found


def _sources(vertex: Vertex) -> Iterator[Vertex]:
    for node, number in vertex[0].next_functions:
        if node is not None:
            yield node, number


def _between(score: Vertex, starts: set[Vertex]) -> list[Vertex]:
    """The vertices on any way from the starts to the score, each after those it is made of."""
    order: list[Vertex] = []
    leads: dict[Vertex, bool] = {}
    waiting = [(score, _sources(score))]
    seen = {score}
    while waiting:
        vertex, sources = waiting[-1]
        source = next(sources, None)
        if source is None:
            waiting.pop()
            leads[vertex] = vertex in starts or any(map(leads.get, _sources(vertex)))
            if leads[vertex]:
                order.append(vertex)
        elif source not in seen:
            seen.add(source)
            waiting.append((source, _sources(source)))
    return order
