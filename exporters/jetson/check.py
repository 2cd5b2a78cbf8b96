"""Checks a family's TensorRT files on this machine, before they are sent to a Jetson."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from exporters import ExportError
from exporters.jetson.jetpack import tensorrt_of
from exporters.jetson.nvidia_parser import ParserVerdict, describe, parse
from exporters.jetson.rules import check
from exporters.jetson.sparse24 import sparse24
from mmprune.records import Artifact


@dataclass(frozen=True)
class Checked:
    """The notes on all files, and the errors that make files unusable on the board."""

    lines: tuple[str, ...]
    errors: tuple[str, ...]
    refused: frozenset[str] = frozenset()  # ids of the artifacts that have errors


def check_files(root: Path, artifacts: Sequence[Artifact], jetpack: str,
                ask: Callable[[Path], ParserVerdict] = parse) -> Checked:
    """Check the TensorRT files among the artifacts; a finding on several files is listed once, with their number.

    `ask` calls NVIDIA's parser; it is not called again once it is absent. ValueError for an unknown JetPack.
    """
    files = [a for a in artifacts if a.format == "tensorrt"]
    tensorrt, lines, errors, absent = tensorrt_of(jetpack).version, list[str](), list[tuple[str, str]](), False
    for artifact in files:
        path = root / artifact.path
        for finding in check(path, jetpack):
            if finding.level == "error":
                errors.append((artifact.id, f"{finding.node or 'the file'}: {finding.message}"))
            elif finding.level == "warning":
                lines.append(f"{finding.rule}: {finding.message}")
        if not absent:
            verdict = ask(path)
            absent = verdict.status == "absent"
            lines.append("NVIDIA's parser: " + describe(verdict, tensorrt))
            if verdict.status == "rejected":
                errors.append((artifact.id, describe(verdict, tensorrt)))
    counts = {line: lines.count(line) for line in lines}
    lines = [f"{line} ({n} of {len(files)} files)" if n > 1 else line for line, n in counts.items()]
    return Checked((*_sparsity(root, files), *lines), tuple(f"{name}: {text}" for name, text in errors),
                   frozenset(name for name, _ in errors))


def refuse(checked: Checked, jetpack: str, so: str = "nothing was bundled") -> None:
    """ExportError if any file is unusable on the board."""
    if checked.errors:
        text = "\n".join(checked.errors)
        raise ExportError(f"TensorRT of JetPack {jetpack} cannot build these files; {so}:\n{text}")


def _sparsity(root: Path, files: Sequence[Artifact]) -> list[str]:
    """One line for all files with the same counts."""
    found = dict[str, list[str]]()
    for artifact in files:
        layers = sparse24(root / artifact.path)
        text = (f"of {len(layers)} layers {sum(v.pattern for v in layers)} are 2:4, {sum(v.shape for v in layers)} of "
                f"these have a shape with sparse kernels, and {sum(v.likely for v in layers)} will probably use them "
                "(an estimate; the board decides)")
        found.setdefault(text, []).append(artifact.id)
    return [f"{text}: {', '.join(names)}" for text, names in found.items()]
