"""A family's folder is claimed by its manifest: the same command goes on there, another one is refused."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmprune import folder
from mmprune.records import Manifest


def claim(root: Path, manifest: Manifest) -> Manifest:
    """Write the manifest to an empty folder, or check that the folder's manifest has the same variants."""
    if folder.holds_family(root):
        old = folder.read_manifest(root)
        if old.variants != manifest.variants:
            raise folder.FolderError(f"{root} holds another family ({_differences(old, manifest)}); "
                                     "choose another --out, or delete that folder")
        return manifest
    check_free(root)
    folder.write_manifest(root, manifest)
    return manifest


def check_free(root: Path) -> None:
    """FolderError for a folder with other files than those that come before a family."""
    if any(p.name not in (".lock", "cache", "budget") for p in root.iterdir()):  # decoded images, a plan for a budget
        raise folder.FolderError(f"{root} is not empty and holds no family; choose another --out")


# What a hash tells, in words
OTHER = {"weights_sha256": "of other weights", "model.weights_sha256": "of other weights",
         "data.sha256": "of other images"}


def _differences(old: Manifest, new: Manifest) -> str:
    """The first few values in which two manifests differ, in words."""
    def leaves(value: Any, at: str) -> dict[str, Any]:
        if isinstance(value, dict):
            return {k: v for key, sub in value.items() for k, v in leaves(sub, f"{at}.{key}" if at else key).items()}
        return {at: value}

    def of(manifest: Manifest) -> dict[str, Any]:
        row = asdict(manifest)
        names = [tuple(dict.fromkeys(task.strategy for task in m.tasks)) for m in (old, new, manifest)]
        both = old.strategies.keys() & new.strategies.keys()
        row["strategies"] = (", ".join(names[-1]) if names[0] != names[1] else
                             {name: s for name, s in row["strategies"].items() if name in both})
        keys = ("spec", "weights_sha256", "images", "ranges", "strategies")
        return leaves({**row["source"], **{key: row[key] for key in keys}}, "")

    a, b = of(old), of(new)
    differing = [k for k in {**a, **b} if a.get(k) != b.get(k)]
    words = [OTHER.get(k) or f"{k}: {_short(a.get(k))} in the folder, {_short(b.get(k))} requested" for k in differing]
    return "; ".join(list(dict.fromkeys(words))[:3]) or "it was made by another version of mmprune"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
