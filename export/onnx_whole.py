"""Whole numbers that a graph computes, written as arithmetic: indices that follow from sizes.

`a // 4 + b` adds two nodes and stands for what they make, of any shape that broadcasts.
"""

from dataclasses import dataclass

import numpy as np

from export.onnx_nodes import Nodes


@dataclass(frozen=True)
class Whole:
    """A value of type int64, by its name in the graph."""

    graph: Nodes
    name: str

    def __add__(self, other: "Whole | int") -> "Whole":
        return self.op("Add", other)

    def __sub__(self, other: "Whole | int") -> "Whole":
        return self.op("Sub", other)

    def __mul__(self, other: "Whole | int") -> "Whole":
        return self.op("Mul", other)

    def __floordiv__(self, other: "Whole | int") -> "Whole":
        """Of numbers that are not negative: ONNX cuts towards zero."""
        return self.op("Div", other)

    def __mod__(self, other: "Whole | int") -> "Whole":
        return self.op("Mod", other)

    def least(self, other: "Whole | int") -> "Whole":
        """The smaller of both."""
        return self.op("Min", other)

    def below(self, other: "Whole | int") -> str:
        """The name of where this is the smaller one, bool."""
        return self.op("Less", other).name

    def op(self, kind: str, other: "Whole | int") -> "Whole":
        """A node with these two inputs."""
        right = other if isinstance(other, Whole) else number(self.graph, other)
        out = f"whole.{len(self.graph.nodes)}"
        return Whole(self.graph, self.graph.op(kind, [self.name, right.name], out))

    def __getitem__(self, index: int) -> "Whole":
        """One number of a list."""
        inputs, out = [self.name, number(self.graph, index).name], f"whole.{len(self.graph.nodes)}"
        return Whole(self.graph, self.graph.op("Gather", inputs, out, axis=0))

    def counted(self) -> "Whole":
        """0, 1, ... below this number, which is a single one."""
        ends = [number(self.graph, 0).name, self.name, number(self.graph, 1).name]
        return Whole(self.graph, self.graph.op("Range", ends, f"whole.{len(self.graph.nodes)}"))

    def shaped(self, *sizes: int) -> "Whole":
        """The same numbers in another shape; -1 is what is left."""
        return Whole(self.graph, shaped(self.graph, self.name, sizes))


def number(graph: Nodes, value: int) -> Whole:
    """A constant."""
    return Whole(graph, graph.constant(f"whole.is.{value}", value, np.int64))


def shaped(graph: Nodes, x: str, sizes: tuple[int, ...], out: str = "") -> str:
    """Any value in another shape: -1 is what is left, 0 as long as it was."""
    to = "x".join(map(str, sizes))
    shape = graph.constant(f"shape.{to}", sizes, np.int64)
    return graph.op("Reshape", [x, shape], out or f"shaped.{len(graph.nodes)}")
