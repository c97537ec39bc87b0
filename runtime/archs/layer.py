"""A decoder layer as data: the ops of a layer in order, read by every engine and every writer.

    x                           the residual stream, (B, T, D)
    Norm                        y = norm(x)
    Attention, GatedMLP, MoE    y = op(y)
    Residual                    x = x + y

`runtime/forward.py` computes it, `runtime/native/decoder.cpp` computes it in C++, and
`export/onnx_graph.py` writes it as a graph. Shapes, names, the linears that share an input and what
a scale can be folded into follow from the same records, so a family is a function from its sizes to
a list of them (base.py).

Tensors go by GGUF's names within a layer ("attn_q"); `hf` is the name in a Hugging Face checkpoint.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from runtime.rope import Rope

Shape = tuple[int, ...]
EXPERTS = "ffn_experts"
"""What the names of experts' input groups begin with."""
ROUTER = "ffn_router"
"""The input group of a router: all that experts may read."""
Activation = Literal["silu", "gelu"]
"""silu(x) = x * sigmoid(x); gelu is the approximation by tanh (Hendrycks and Gimpel 2016)."""


@dataclass(frozen=True)
class Linear:
    """y = x W^T + bias."""

    name: str
    hf: str
    outputs: int
    inputs: int
    bias: bool = False
    experts: int | None = None
    """Matrices of a mixture of experts that are stored as one; `hf` has an {expert} then."""
    rows: tuple[int, int] | None = None
    """Where a checkpoint stores it with others as one array: its first row in it, and the rows of
    all; None = it has an array of its own."""
    precise: bool = False
    """Whether it stays F32: small, and what it decides is not a matter of degree."""

    @property
    def shape(self) -> Shape:
        """(outputs, inputs), or (experts, outputs, inputs)."""
        matrix = (self.outputs, self.inputs)
        return matrix if self.experts is None else (self.experts, *matrix)


@dataclass(frozen=True)
class Norm:
    """y = x / sqrt(mean(x^2) + eps) * weight, over the last `width` channels."""

    name: str
    hf: str
    width: int
    eps: float
    offset: float = 0.0
    """1 where a checkpoint stores the weight's distance from 1; it is added when that is read."""


@dataclass(frozen=True)
class Attention:
    """Causal attention; `heads` query heads share `kv_heads` keys and values."""

    q: Linear
    k: Linear
    v: Linear
    output: Linear
    heads: int
    kv_heads: int
    head_dim: int
    rope: Rope | None
    """None: positions are not told."""
    rope_channels: int
    """The first channels of each head, which rope rotates; the rest stay."""
    q_norm: Norm | None = None
    """Of each query head, before rope."""
    k_norm: Norm | None = None
    scale: float | None = None
    """Factor on the scores; None = 1 / sqrt(head_dim)."""
    window: int | None = None
    """Keys that a query sees, its own the last; None = all before it."""
    soft_cap: float | None = None
    """Scores become soft_cap * tanh(score / soft_cap)."""

    @property
    def scores_scale(self) -> float:
        """Factor on the scores."""
        return float(self.head_dim**-0.5) if self.scale is None else self.scale


@dataclass(frozen=True)
class GatedMLP:
    """y = down(activation(gate(x)) * up(x))."""

    gate: Linear
    up: Linear
    down: Linear
    activation: Activation = "silu"


@dataclass(frozen=True)
class MoE:
    """The `top_k` experts that the router finds best for a token, weighted by its softmax."""

    router: Linear
    experts: GatedMLP
    """Its linears hold every expert."""
    top_k: int
    normalized: bool
    """Whether the weights of the chosen experts are made to sum to 1."""
    shared: GatedMLP | None = None
    """An expert for every token."""
    shared_gate: Linear | None = None
    """Its weight is the sigmoid of this linear's one output."""


@dataclass(frozen=True)
class Residual:
    """x = x + multiplier * post_norm(y)."""

    multiplier: float = 1.0
    post_norm: Norm | None = None


Op = Norm | Attention | GatedMLP | MoE | Residual


@dataclass(frozen=True)
class InputGroup:
    """Linears that read the same input, so that one Hessian serves them all."""

    name: str
    """Unique within a layer, such as "attn_qkv" or, of one expert, "ffn_experts_down.3"."""
    linears: tuple[str, ...]
    width: int
    """Channels of the input."""
    fold: str | None
    """The tensor whose output channels can take a scale of the input: a norm, or a linear's rows.
    None where there is none."""
    expert: int | None = None
    """Whose matrices of the linears read it, and only for the tokens that the router gave it."""

    @property
    def stem(self) -> str:
        """What the names of all experts' groups begin with; of any other group its name."""
        return self.name.partition(".")[0]

    def part(self, linear: str) -> str:
        """Name of what reads it: the linear, or its matrix of one expert, "ffn_down_exps.3"."""
        return linear if self.expert is None else f"{linear}.{self.expert}"

    def matrix(self, linear: str, weights: Mapping[str, Any]) -> Any:
        """The weight that reads it, (out, in), of those of the layer by name."""
        weight = weights[f"{linear}.weight"]
        return weight if self.expert is None else weight[self.expert]


@dataclass(frozen=True)
class LayerSpec:
    """One decoder layer, and what follows from its ops."""

    ops: tuple[Op, ...]

    @cached_property
    def parts(self) -> tuple[Linear | Norm, ...]:
        """Whatever has a tensor, in the order of the ops."""
        found: list[Linear | Norm] = []
        for op in self.ops:
            found += _parts(op)
        return tuple(found)

    @cached_property
    def linears(self) -> dict[str, Linear]:
        """Every linear by its name."""
        return {part.name: part for part in self.parts if isinstance(part, Linear)}

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """Every tensor in file order: name within the layer ("attn_q.weight") -> shape."""
        return {name: shape for name, shape, _ in self._tensors()}

    @cached_property
    def hf_names(self) -> dict[str, str]:
        """Name of every tensor within the layer -> its name within a checkpoint's layer."""
        return {name: hf for name, _, hf in self._tensors()}

    @cached_property
    def groups(self) -> tuple[InputGroup, ...]:
        """The linears by the input that they share, in the order in which they compute."""
        found: list[InputGroup] = []
        norm: Norm | None = None
        for op in self.ops:
            if isinstance(op, Norm):
                norm = op
            found += _groups(op, norm.name if norm else None)
        return tuple(found)

    @cached_property
    def channels(self) -> dict[str, tuple[str, ...]]:
        """Linears whose input has the output channels of others, one by one, which may come in any
        order: `down` of a gated MLP -> `gate` and `up`. Those of experts are left out."""
        mlps = [op.shared if isinstance(op, MoE) else op for op in self.ops]
        return {m.down.name: _names(m.gate, m.up) for m in mlps if isinstance(m, GatedMLP)}

    @property
    def output_factor(self) -> float | None:
        """What the last linear writes goes into the layer's output times this; None for no factor,
        but something that is not linear, or that differs from token to token."""
        *_, before, last = (None, *self.ops)
        plain = isinstance(last, Residual) and not last.post_norm and not isinstance(before, MoE)
        return last.multiplier if plain and isinstance(last, Residual) else None

    @cached_property
    def mixture(self) -> MoE | None:
        """The layer's experts."""
        return next((op for op in self.ops if isinstance(op, MoE)), None)

    @cached_property
    def attention(self) -> Attention:
        """The layer's attention."""
        return next(op for op in self.ops if isinstance(op, Attention))

    def _tensors(self) -> list[tuple[str, Shape, str]]:
        found: list[tuple[str, Shape, str]] = []
        for part in self.parts:
            name, hf = f"{part.name}.weight", f"{part.hf}.weight"
            if isinstance(part, Norm):
                found.append((name, (part.width,), hf))
                continue
            found.append((name, part.shape, hf))
            if part.bias:
                found.append((f"{part.name}.bias", part.shape[:-1], f"{part.hf}.bias"))
        return found


def _parts(op: Op) -> list[Linear | Norm]:
    """The norms and linears of an op, in file order."""
    match op:
        case Norm():
            return [op]
        case Attention():
            return [op.q, op.k, op.v, *filter(None, (op.q_norm, op.k_norm)), op.output]
        case GatedMLP():
            return [op.gate, op.up, op.down]
        case MoE():
            shared = _parts(op.shared) if op.shared else []
            gate = [op.shared_gate] if op.shared_gate else []
            return [op.router, *_parts(op.experts), *shared, *gate]
        case Residual():
            return [op.post_norm] if op.post_norm else []


def _groups(op: Op, norm: str | None) -> list[InputGroup]:
    """The input groups of an op that reads what `norm` made; None: no norm can take a scale."""
    match op:
        case Attention():
            return [
                InputGroup("attn_qkv", _names(op.q, op.k, op.v), op.q.inputs, norm),
                InputGroup("attn_output", _names(op.output), op.output.inputs, op.v.name),
            ]
        case GatedMLP():
            return _mlp_groups(op, "ffn", norm)
        case MoE():
            # every expert and the router read what the norm made: a scale folded into it would
            # have to be taken back in all of them at once
            groups = [InputGroup(ROUTER, _names(op.router), op.router.inputs, None)]
            for expert in range(op.router.outputs):
                groups += _expert_groups(op.experts, expert)
            if op.shared:
                groups += _mlp_groups(op.shared, "ffn_shared", None)
            if op.shared_gate:
                gate = op.shared_gate
                groups.append(InputGroup("ffn_shared_gate", _names(gate), gate.inputs, None))
            return groups
        case _:
            return []


def _mlp_groups(mlp: GatedMLP, name: str, norm: str | None) -> list[InputGroup]:
    return [
        InputGroup(f"{name}_gate_up", _names(mlp.gate, mlp.up), mlp.gate.inputs, norm),
        InputGroup(f"{name}_down", _names(mlp.down), mlp.down.inputs, mlp.up.name),
    ]


def _expert_groups(mlp: GatedMLP, expert: int) -> list[InputGroup]:
    """Those of one expert. Its rows could take a scale, but tokens that chose it are too few to
    choose one by."""
    gate_up, down = (f"{EXPERTS}_{part}.{expert}" for part in ("gate_up", "down"))
    return [
        InputGroup(gate_up, _names(mlp.gate, mlp.up), mlp.gate.inputs, None, expert),
        InputGroup(down, _names(mlp.down), mlp.down.inputs, None, expert),
    ]


def _names(*linears: Linear) -> tuple[str, ...]:
    return tuple(linear.name for linear in linears)
