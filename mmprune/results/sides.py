"""A run of a family, opened to be compared with another one, and what in it can be the yardstick of both."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from mmprune import folder
from mmprune.choices import nearest
from mmprune.records import Artifact, Manifest, Measurement, Variant
from mmprune.results.headline import OURS
from mmprune.results.points import PointsError, one_session, session_name


@dataclass(frozen=True)
class Spec:
    """What the user named: FOLDER[@SESSION][:VARIANT[/FILE]]."""

    root: Path
    session: str = ""  # "" for the newest
    file: str = ""  # a strategy or variant id, or "<one of them>/<format>-<precision>", with * and ?; "" for all


def read_spec(text: str, base: Path = Path()) -> Spec:
    """The Spec in a text; a folder's name may have @ and : itself."""
    if (base / text).is_dir():
        return Spec(base / text)
    path, _, file = text.rpartition(":") if ":" in text else (text, "", "")
    if (base / path).is_dir():
        return Spec(base / path, file=file)
    path, _, session = path.rpartition("@") if "@" in path else (path, "", "")
    return Spec(base / path, session, file)


@dataclass(frozen=True)
class File:
    """A measured file."""

    variant: Variant
    artifact: Artifact
    runs: tuple[Measurement, ...]  # one for each part of the session that it was in

    @property
    def name(self) -> str:
        """The strategy with format and precision: what the file is called in another family, too."""
        return f"{self.variant.strategy}/{self.artifact.format}-{self.artifact.precision}"

    @property
    def runtime(self) -> str:
        return self.runs[0].runtime

    @property
    def run(self) -> Measurement:
        return self.runs[0]

    def is_called(self, name: str) -> bool:
        """Whether the name, which may have * and ?, is its strategy's or variant's, or the file's."""
        known = (self.name, self.artifact.id, self.variant.strategy, self.variant.id)
        return any(fnmatchcase(mine, name) for mine in known)


@dataclass(frozen=True)
class Side:
    """One session of a family."""

    root: Path
    session: str
    manifest: Manifest
    files: tuple[File, ...]

    def is_session(self, other: "Side") -> bool:
        return self.session == other.session and self.root.resolve() == other.root.resolve()

    @property
    def dense(self) -> list[File]:
        return [f for f in self.files if f.artifact.reference]

    def named(self, name: str, runtime: str | None = None) -> list[File]:
        """The files that are called so; "" is all. ValueError if there is none."""
        found = [f for f in self.files if (not name or f.is_called(name)) and runtime in (None, f.runtime)]
        if not found:
            names = list(dict.fromkeys(f.name for f in self.files if runtime in (None, f.runtime)))
            with_it = f" with {runtime}" if runtime else ""
            raise ValueError(f"{self.root} has no measured file {name!r}{with_it}{nearest(name, names)}")
        return found


def open_side(root: Path, session: str = "") -> Side:
    """The session ("": the newest) of the folder, of files that were not exported again since."""
    artifacts = {a.id: a for a in folder.read_artifacts(root)}
    variants = {v.id: v for v in folder.read_variants(root)}
    found: dict[tuple[str, str, int], list[Measurement]] = {}
    measured = one_session(root, session)
    for m in measured:
        if m.artifact in artifacts and artifacts[m.artifact].sha256 == m.artifact_sha256:
            found.setdefault((m.artifact, m.runtime, m.threads), []).append(m)
    if not found:
        raise PointsError(f"every artifact in {root} was exported again after it was measured; measure again")
    files = [File(variants[artifacts[name].variant], artifacts[name], tuple(runs))
             for (name, *_), runs in found.items()]
    return Side(root, session_name(measured[0]), folder.read_manifest(root), tuple(files))


def yardsticks(mine: Side, other: Side) -> list[tuple[File, File]]:
    """Pairs of dense files that ran the same code in both: of the same layers, in one version of a runtime.

    Between two runs a machine's speed changes, and a dense file's with it. mmrt's version does not tell its code, but
    mmprune's commit does.
    """
    layers = [[(x.name, x.shape, x.macs) for x in side.manifest.layers] for side in (mine, other)]
    return [(a, b) for a in mine.dense for b in other.dense if layers[0] == layers[1] and _code(a) == _code(b)]


def _code(file: File) -> tuple[object, ...]:
    run = file.run
    commit = run.commit if run.runtime == OURS else ""
    return (file.artifact.format, file.artifact.precision, run.runtime, run.runtime_version, run.settings, commit)


def beside(a: File, b: File) -> tuple[Measurement, Measurement] | None:
    """Runs of the two in one part of one session, on the same terms; None if there are none."""
    return next(((x, y) for x in a.runs for y in b.runs if (x.session, x.threads, x.batch, x.device.fingerprint)
                 == (y.session, y.threads, y.batch, y.device.fingerprint)), None)


def same_images(a: Manifest, b: Manifest) -> bool:
    """Whether two families were tested on the same images, as far as that is on record."""
    known = [m.source.data and m.source.data.sha256 for m in (a, b)]
    return known[0] == known[1] and a.images.test == b.images.test


def common(files: Sequence[File], others: Sequence[File]) -> list[tuple[File, File]]:
    """The files that are called alike and ran with the same runtime in both."""
    named = {(f.name, f.runtime): f for f in reversed(others)}
    return [(f, named[f.name, f.runtime]) for f in files if (f.name, f.runtime) in named]
