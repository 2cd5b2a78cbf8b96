"""The prunable weights of a model and their kinds, from the module tree and one forward pass.

Prunable are the weights of convolutions and linear layers and the input projections of nn.MultiheadAttention; norms,
biases, embeddings and tables are not.
"""

import re
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mmprune.reach import without_effect
from mmprune.records import Layer

SMALL = 10_000  # weights; a smaller layer saves little and is sensitive (Mix-and-Match, phase 1)

KINDS = (
    "stem", "conv", "downsample", "pointwise", "depthwise", "grouped", "attn_qkv", "attn_proj", "mlp_fc1", "mlp_fc2",
    "patch_embed", "patch_merging", "squeeze_excite", "classifier", "linear", "small",
)
HEADS = {"head", "heads", "head_dist", "classifier", "fc", "pre_logits", "last_linear", "output"}
STEMS = {"stem", "patch_embed", "conv_stem", "conv1", "conv_proj"}
_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
_PRODUCTS = (*_CONVOLUTIONS, F.linear)
_QKV = re.compile(r"(^|[_.])(to_)?(q|k|v|kv|qk|qkv|query|key|value|in_proj_weight)(_?(proj|lin|linear|conv))?([_.]|$)")
# names of classes: SqueezeExcite, SEModule, EffectiveSEModule
_SQUEEZE = re.compile(r"(?i:squeeze)|^(Effective|Efficient)?SE([A-Z]|$)")
_ATTENTION = re.compile(r"attention|attn|^xca$", re.IGNORECASE)
_MLP = re.compile(r"mlp|ffn|feed_?forward", re.IGNORECASE)


@dataclass
class _Call:
    """One prunable weight, as recorded in the forward pass."""

    name: str  # the parameter's name
    module: nn.Module
    weight: Tensor
    order: int
    macs: int = 0
    spatial: tuple[int, ...] = ()  # spatial size of the input; () for a linear layer
    ancestors: tuple[str, ...] = field(default=())  # class names, outermost first


def find_layers(model: nn.Module, input_shape: tuple[int, ...]) -> tuple[Layer, ...]:
    """Every prunable weight in the order of execution, with its kind, depth and multiply-accumulates for one image.

    input_shape  (1, C, H, W)
    A head that runs but does not affect the model's output is left out: no exported file contains it.
    ValueError if the model uses no such weight.
    """
    calls = _record_calls(model, input_shape)
    idle = without_effect(model, {call.name: call.weight for call in calls}, input_shape)
    calls = [call for call in calls if call.name not in idle]
    if not calls:
        raise ValueError(f"{type(model).__name__} uses no convolution or linear layer, so there is nothing to prune")
    last = max(len(calls) - 1, 1)
    kinds = _kinds(calls, has_attention=any(_in_attention(c) for c in calls))
    return tuple(Layer(c.name, kinds[c.name], i / last, tuple(c.weight.shape), c.macs) for i, c in enumerate(calls))


def prunable_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """All weights that find_layers may return, whether a forward pass uses them or not; shared ones once."""
    found: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for module_name, module in model.named_modules():
        for leaf in _weight_names(module):
            weight = getattr(module, leaf)
            if id(weight) not in seen:
                seen.add(id(weight))
                found[f"{module_name}.{leaf}" if module_name else leaf] = weight
    return found


def _weight_names(module: nn.Module) -> list[str]:
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)):
        return ["weight"] if isinstance(module.weight, nn.Parameter) else []
    if isinstance(module, nn.MultiheadAttention):
        names = ["in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"]
        return [n for n in names if getattr(module, n, None) is not None]
    return []


def _record_calls(model: nn.Module, input_shape: tuple[int, ...]) -> list[_Call]:
    """Run the model on zeros and record each prunable weight when a product first uses it."""
    recorder = Recorder(model)
    training = model.training
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        model.eval()
        with torch.no_grad(), recorder:
            model(torch.zeros(input_shape, device=device))
    finally:
        model.train(training)
    return list(recorder.calls.values())


class Recorder(TorchFunctionMode):
    """Records every torch call of the forward pass, so that a weight passed to F.linear counts like a module's.

    A weight that is changed before use (weight standardization) does not count: its zeros would not survive.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.modules = dict(model.named_modules())
        self.names = {id(w): n for n, w in prunable_weights(model).items()}
        self.calls: dict[str, _Call] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if func in _PRODUCTS or func is F.multi_head_attention_forward:
            values = [*args, *kwargs.values()]
            x = values[0]
            for weight in values[1:]:
                if isinstance(weight, Tensor) and id(weight) in self.names:
                    self._note(weight, x, output, func)
        return output

    def _note(self, weight: Tensor, x: Tensor, output: Any, func: Any) -> None:
        name = self.names[id(weight)]
        if name not in self.calls:
            module = self.modules[name.rsplit(".", 1)[0]] if "." in name else self.modules[""]
            spatial = tuple(x.shape[2:]) if func in _CONVOLUTIONS else ()
            self.calls[name] = _Call(name, module, weight, len(self.calls), 0, spatial, _ancestors(self.modules, name))
        places = output.shape[2:].numel() if func in _CONVOLUTIONS else x.numel() // x.shape[-1]
        self.calls[name].macs += weight.numel() * places


def _ancestors(modules: dict[str, nn.Module], name: str) -> tuple[str, ...]:
    parts = name.split(".")
    return tuple(type(modules[".".join(parts[:i])]).__name__ for i in range(1, len(parts) - 1))


def _in_attention(call: _Call) -> bool:
    if isinstance(call.module, nn.MultiheadAttention):
        return True
    return any(_ATTENTION.search(a) and not _SQUEEZE.search(a) for a in call.ancestors)


def _kinds(calls: list[_Call], has_attention: bool) -> dict[str, str]:
    stems = _stem_names(calls, has_attention)
    classifiers = _classifier_names(calls)
    pairs = _mlp_pairs(calls)
    kinds = {}
    for call in calls:
        if call.name in classifiers:
            kind = "classifier"
        elif call.name in stems:
            kind = stems[call.name]
        else:
            kind = _block_kind(call, calls, pairs)
            if call.weight.numel() < SMALL and kind not in ("depthwise", "grouped", "squeeze_excite", "patch_merging"):
                kind = "small"
        kinds[call.name] = kind
    return kinds


def _stem_names(calls: list[_Call], has_attention: bool) -> dict[str, str]:
    """The layers that read the image: the stem of a convolutional network or the patch embedding of a transformer."""
    first = calls[0]
    top = first.name.split(".")[0]
    whole_child = top in STEMS
    inputs = first.weight.shape[1]
    reads_image = [c.name for c in calls[:4] if c.spatial == first.spatial and c.weight.shape[1] == inputs]
    names = [c.name for c in calls if whole_child and c.name.split(".")[0] == top] or reads_image
    conv = first.module
    is_patch = isinstance(conv, nn.Conv2d) and conv.kernel_size == conv.stride and conv.kernel_size[0] > 1
    kind = "patch_embed" if is_patch or (has_attention and top in ("stem", "patch_embed")) else "stem"
    return dict.fromkeys(names, kind)


def _classifier_names(calls: list[_Call]) -> set[str]:
    """The layers of the head: the last one that is executed, and those with a usual name of a head."""
    last = calls[-1]
    return {last.name, *(c.name for c in calls if c.name.split(".")[0] in HEADS and not _in_attention(c))}


def _mlp_pairs(calls: list[_Call]) -> dict[str, str]:
    """Two dense layers a -> b of one parent where b reverts a's widening: fc1 and fc2, under any names."""
    by_parent: dict[str, list[_Call]] = {}
    for call in calls:
        w = call.weight
        if w.numel() == w.shape[0] * w.shape[1] and not _in_attention(call):
            by_parent.setdefault(_mlp_parent(call), []).append(call)
    pairs = {}
    for parent, (first, *rest) in by_parent.items():
        if len(rest) == 1 and parent:
            second = rest[0]
            wide, narrow = first.weight.shape[:2]
            named = _MLP.search(" ".join((parent, *first.ancestors[-2:])))
            linear = isinstance(first.module, nn.Linear) and isinstance(second.module, nn.Linear)
            undoes = tuple(second.weight.shape[:2]) == (narrow, wide) and wide > narrow
            if undoes and (named or linear):
                pairs[first.name], pairs[second.name] = "mlp_fc1", "mlp_fc2"
    return pairs


def _mlp_parent(call: _Call) -> str:
    """The module that holds the layer; one level up where it is wrapped (levit's LinearNorm: mlp.ln1.linear)."""
    parts = call.name.split(".")[:-1]
    wrapped = parts[-1] in ("linear", "c", "conv")
    return ".".join(parts[:-2] if wrapped else parts[:-1])


def _block_kind(call: _Call, calls: list[_Call], pairs: dict[str, str]) -> str:
    parts = set(call.name.split("."))
    if any(_SQUEEZE.search(a) for a in call.ancestors) or parts & {"se", "se_module", "se_layer"}:
        return "squeeze_excite"
    if getattr(call.module, "groups", 1) > 1:
        return "depthwise" if call.weight.shape[1] == 1 else "grouped"
    if _in_attention(call):
        return _attention_kind(call, calls)
    return pairs.get(call.name) or _plain_kind(call, parts)


def _plain_kind(call: _Call, parts: set[str]) -> str:
    conv = call.module if isinstance(call.module, nn.Conv2d) else None
    if conv is None:
        return "patch_merging" if "reduction" in parts else "linear" if call.weight.dim() == 2 else "conv"
    if conv.kernel_size == conv.stride and conv.kernel_size[0] > 1:
        return "patch_merging"
    if conv.kernel_size == (1, 1):
        return "downsample" if parts & {"downsample", "shortcut"} else "pointwise"
    return "conv"


def _attention_kind(call: _Call, calls: list[_Call]) -> str:
    """By name if it is a usual one (qkv, proj); else the attention's last layer is proj, the others are qkv."""
    own = ".".join(call.name.split(".")[-3:])
    if _QKV.search(own):
        return "attn_qkv"
    if re.search(r"proj|out", own):
        return "attn_proj"
    parent = call.name.rsplit(".", 2)[0]
    siblings = [c for c in calls if c.name.startswith(parent + ".")]
    return "attn_proj" if siblings and siblings[-1].name == call.name else "attn_qkv"
