"""How much sparsity each layer tolerates: a rule table by kind and depth, presets for four models, user overrides.

Mix-and-Match Pruning (arXiv 2603.20280), phase 1. The numbers of the presets are those of the authors' published code;
they reproduce the sparsities printed in the paper's draft for Swin-T, ResNet-18 and VGG-11.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mmprune.choices import nearest
from mmprune.from_toml import read_toml
from mmprune.layers import KINDS, SMALL
from mmprune.records import Layer, Range

# kind: sparsity ranges for the four quarters of the network's depth (or one range for all), and the reason
RULES: dict[str, tuple[tuple[tuple[float, float], ...], str]] = {
    "stem": (((0.0, 0.10),), "reads the image: few weights, and every later layer depends on it"),
    "conv": (((0.30, 0.50), (0.40, 0.60), (0.50, 0.70), (0.75, 0.95)),
             "late ones hold most weights and most redundancy"),
    "downsample": (((0.0, 0.20),), "the only path past a stage's end"),
    "pointwise": (((0.30, 0.50), (0.40, 0.60), (0.50, 0.70), (0.60, 0.85)),
                  "as conv, less late: no spatial redundancy"),
    "depthwise": (((0.0, 0.10),), "one filter a channel: nothing else can take over"),
    "grouped": (((0.20, 0.40), (0.20, 0.40), (0.30, 0.50), (0.40, 0.60)),
                "each output sees few inputs already"),
    "attn_qkv": (((0.10, 0.30), (0.15, 0.35), (0.20, 0.40), (0.25, 0.45)),
                 "queries and keys multiply their errors"),
    "attn_proj": (((0.20, 0.40), (0.25, 0.45), (0.30, 0.50), (0.35, 0.55)),
                  "mixes heads, linear in the values"),
    "mlp_fc1": (((0.30, 0.45), (0.35, 0.50), (0.40, 0.55), (0.45, 0.60)),
                "wide and redundant: a cut unit costs little"),
    "mlp_fc2": (((0.25, 0.40), (0.30, 0.45), (0.35, 0.50), (0.40, 0.55)),
                "writes to the residual stream: less than fc1"),
    "patch_embed": (((0.0, 0.10),), "reads the image: few weights, and every later layer depends on it"),
    "patch_merging": (((0.05, 0.20),), "the only path past a stage's end"),
    "squeeze_excite": (((0.0, 0.20),), "gates whole channels: an error there hits all positions"),
    "classifier": (((0.0, 0.30),), "90 % there destroyed the accuracy of ResNet-18 in the authors' trials"),
    "linear": (((0.10, 0.30),), "a linear layer of unknown use"),
    "small": (((0.0, 0.10),), f"fewer than {SMALL:,} weights: saves little, breaks easily"),
}

# Kinds that strategies without ranges leave dense
KEPT_DENSE = ("stem", "patch_embed", "depthwise")


def rule_range(layer: Layer) -> Range:
    """The rule table's range for a layer: by kind, and where the kind has four rows, by the quarter of the depth."""
    rows, why = RULES[layer.kind]
    quarter = min(int(layer.depth * len(rows)), len(rows) - 1)
    return Range(*rows[quarter], f"{layer.kind}: {why}")


def rule_ranges(layers: Sequence[Layer]) -> dict[str, Range]:
    return {layer.name: rule_range(layer) for layer in layers}


def resnet18_ranges(layers: Sequence[Layer]) -> dict[str, Range]:
    stages = {"layer1": (0.30, 0.50), "layer2": (0.40, 0.60), "layer3": (0.50, 0.70), "layer4": (0.75, 0.95)}

    def one(layer: Layer) -> tuple[float, float]:
        if layer.kind in ("stem", "classifier"):
            return 0.0, 0.30
        if "downsample" in layer.name:
            return 0.0, 0.20
        return stages.get(layer.name.split(".")[0], (0.0, 0.10))

    return {layer.name: Range(*one(layer), "preset resnet18") for layer in layers}


def vgg11_ranges(layers: Sequence[Layer]) -> dict[str, Range]:
    dense = sorted((x for x in layers if x.kind in ("classifier", "linear")), key=lambda x: -x.params)
    convs = [x for x in layers if x not in dense and x.kind != "stem" and x.params >= SMALL]
    found = {x.name: Range(0.0, 0.10, "preset vgg11: small or stem") for x in layers}
    for place, layer in enumerate(dense):
        row = ((0.92, 0.98), (0.88, 0.96), (0.85, 0.95))[min(place, 2)]
        found[layer.name] = Range(*row, "preset vgg11: fully connected, by size")
    for j, layer in enumerate(convs):
        at = j / max(len(convs) - 1, 1)
        row = (0.40, 0.60) if at < 0.4 else (0.55, 0.70) if at < 0.6 else (0.65, 0.80) if at < 0.8 else (0.75, 0.92)
        found[layer.name] = Range(*row, f"preset vgg11: convolution at {at:.2f} of the depth")
    return found


def swin_tiny_ranges(layers: Sequence[Layer]) -> dict[str, Range]:
    lows = {"attn.qkv": 0.10, "attn.proj": 0.20, "mlp.fc1": 0.30, "mlp.fc2": 0.25}
    widths = {"attn.qkv": 0.20, "attn.proj": 0.20, "mlp.fc1": 0.15, "mlp.fc2": 0.15}

    def one(layer: Layer) -> tuple[float, float]:
        if layer.kind == "patch_embed":
            return 0.0, 0.10
        if layer.kind == "patch_merging":
            return 0.05, 0.20
        if layer.kind == "classifier":
            return 0.0, 0.15
        part = next((p for p in lows if p in layer.name), None)
        if part is None:
            return 0.10, 0.30
        low = lows[part] + 0.05 * int(layer.name.split(".")[1])  # layers.<stage>.
        return round(low, 4), round(low + widths[part], 4)

    return {layer.name: Range(*one(layer), "preset swin_tiny") for layer in layers}


def levit_384_ranges(layers: Sequence[Layer]) -> dict[str, Range]:
    rows = {"classifier": (0.0, 0.30), "patch_embed": (0.0, 0.20), "attn_qkv": (0.0, 0.30), "attn_proj": (0.50, 0.80),
            "mlp_fc1": (0.0, 0.40), "mlp_fc2": (0.0, 0.40)}
    return {x.name: Range(*rows.get(x.kind, (0.0, 0.10)), "preset levit_384") for x in layers}


# start of the timm or torchvision name: the preset
PRESETS: dict[str, Callable[[Sequence[Layer]], dict[str, Range]]] = {
    "resnet18": resnet18_ranges,
    "vgg11": vgg11_ranges,
    "swin_tiny_patch4_window7": swin_tiny_ranges,
    "levit_384": levit_384_ranges,
}


def preset_name(model: str) -> str | None:
    """The preset for a model's name: `resnet18.a1_in1k` and `resnet18` have one, `resnet18d` has none."""
    return next((p for p in PRESETS if re.match(rf"{p}(_bn|_224)?(\.|$)", model)), None)


def find_ranges(model: str, layers: Sequence[Layer], overrides: dict[str, Any] | None = None) -> dict[str, Range]:
    """The range of every layer: the model's preset or the rule table, then the user's overrides, see read_overrides."""
    preset = preset_name(model)
    return _overridden(PRESETS[preset](layers) if preset else rule_ranges(layers), layers, overrides or {})


def find_bounds(layers: Sequence[Layer], overrides: Mapping[str, Any] | None = None) -> dict[str, Range]:
    """The bounds of every layer for strategies without ranges (strategies.ALLOCATORS), then the user's overrides.

    [0, 0] for what stays dense: the stem or patch embedding, depthwise convolutions and the layers that give the
    logits, as is usual where sparse networks have to be fast, since these are few weights that cost much accuracy.
    [0, 1 - 1/n] for the others, so that of n weights one is left and no layer is cut off. The published codes prune
    the first and the last layer too; overrides of [0.0, 0.99] allow that.
    """
    outputs = layers[-1].shape[0]

    def one(layer: Layer) -> Range:
        gives_logits = layer.kind == "classifier" and layer.shape[0] == outputs  # not a VGG's hidden layers
        if layer.kind in KEPT_DENSE or gives_logits:
            return Range(0.0, 0.0, f"{layer.kind}: stays dense")
        return Range(0.0, 1 - 1 / layer.params, "one weight is left")

    return _overridden({x.name: one(x) for x in layers}, layers, overrides or {})


def _overridden(ranges: dict[str, Range], layers: Sequence[Layer], overrides: Mapping[str, Any]) -> dict[str, Range]:
    for section in ("kinds", "layers"):
        for glob, bounds in overrides.get(section, {}).items():
            words = {x.name: [x.kind] if section == "kinds" else [_bare(x.name), x.name] for x in layers}
            hits = [x for x in layers if any(fnmatchcase(w, glob) for w in words[x.name])]
            if not hits:
                near = nearest(glob, sorted({w[0] for w in words.values()}))
                raise ValueError(f"ranges: [{section}] {glob!r} matches no layer of this model{near}")
            low, high = bounds
            for layer in hits:
                ranges[layer.name] = Range(low, high, f"override: [{section}] {glob}")
    return ranges


def read_overrides(path: Path) -> dict[str, dict[str, tuple[float, float]]]:
    """A TOML file with sections [kinds] and [layers], each `"glob" = [low, high]`; later lines win, layers over kinds.

    ValueError that names the key for any other content.
    """
    try:
        content = read_toml(path)
    except ValueError as err:
        raise ValueError(f"cannot read ranges from {path}: {err}") from err
    return check_overrides(content, str(path))


def check_overrides(content: Mapping[str, Any], where: str = "ranges") -> dict[str, Any]:
    """The checked {"kinds": {glob: [low, high]}, "layers": {...}}. ValueError, naming the entry, for anything else."""
    for section, rows in content.items():
        if section not in ("kinds", "layers") or not isinstance(rows, Mapping):
            raise ValueError(f"{where}: unknown entry {section!r}; only the sections [kinds] and [layers] are allowed")
        for glob, bounds in rows.items():
            entry = f"{where}: [{section}] {glob!r}"
            if section == "kinds" and not any(fnmatchcase(kind, glob) for kind in KINDS):
                raise ValueError(f"{entry} is not a kind of layer{nearest(glob, KINDS)}")
            pair = (isinstance(bounds, list | tuple) and len(bounds) == 2
                    and all(type(b) in (int, float) for b in bounds))
            if not pair or not 0 <= bounds[0] <= bounds[1] < 1:
                raise ValueError(f"{entry} = {bounds!r}; it needs [low, high], 0 <= low <= high < 1")
    return {section: dict(rows) for section, rows in content.items()}


def _bare(name: str) -> str:
    return name.removesuffix(".weight")
