"""Checks a deployed folder where it runs: python3 verify.py [FOLDER]. Its files, then the model's answers.

manifest.json has the SHA-256 of every file; golden.npz the answers of this file to a few test images, or its outputs
for a few samples, on the machine that deployed it. Exit status 1 if a file is not what it was, or if an answer is
another one; 2 if the folder is no deployed one.
"""

import hashlib
import json
import pathlib
import sys
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Mapping, Sequence, Tuple

# numpy and runtimes.py, which lies beside this file, are imported once the files are known to be whole
if TYPE_CHECKING:
    import numpy

MANIFEST, GOLDEN = "manifest.json", "golden.npz"
PROGRAMS = (".py", ".pyc", ".so")  # what Python would import from the folder
LARGEST = 0.05  # difference of the answers, as a share of the largest one: int8 kernels of two CPUs round differently


class Broken(Exception):
    """The folder is not what was deployed; the message says what is wrong."""


class NotDeployed(Exception):
    """The folder is none that `mmprune choose --out` wrote; the message says what to do."""


def sha256(path: pathlib.Path) -> str:
    """The digest of a file, in hex."""
    digest = hashlib.sha256()
    with open(str(path), "rb") as f:
        for block in iter(lambda: f.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def digests(folder: pathlib.Path) -> Dict[str, str]:
    """{name: sha256} of every file of a deployed folder but its manifest."""
    return {p.name: sha256(p) for p in sorted(folder.iterdir()) if p.is_file() and p.name != MANIFEST}


def read_manifest(folder: pathlib.Path) -> Dict[str, Any]:
    """The manifest. NotDeployed if it is missing or that of a family, Broken if it is damaged."""
    try:
        manifest: Dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if "tasks" in manifest and "files" not in manifest:
            raise NotDeployed("{0} is a family, not a deployed folder: `mmprune choose {0} --out deploy` writes one, "
                              "and `mmprune report {0}` shows the family".format(folder))
        files = manifest["files"]
        plain = all(pathlib.PurePath(name).name == name for name in files)
    except OSError as err:
        raise NotDeployed("{}: {}; only folders that `mmprune choose FAMILY --out` or `mmprune export` wrote can be "
                          "verified".format(folder / MANIFEST, err.strerror)) from err
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        raise Broken("{} is damaged: deploy again".format(folder / MANIFEST)) from err
    if not plain:
        raise Broken("{} names files outside its folder: deploy again".format(folder / MANIFEST))
    return manifest


def check_files(folder: pathlib.Path, files: Mapping[str, str]) -> List[str]:
    """Notes on files that are there besides. Broken, naming each, if one is missing or another than was deployed."""
    found = digests(folder)
    wrong = ["{} is missing".format(name) for name in files if name not in found]
    wrong += ["{} was changed".format(name) for name in files if name in found and found[name] != files[name]]
    more = [name for name in found if name not in files]
    wrong += ["{} was added".format(name) for name in more if name.endswith(PROGRAMS)]
    if wrong:
        raise Broken("{}: deploy again".format("; ".join(wrong)))
    return more


def opened(folder: pathlib.Path) -> Tuple[Dict[str, Any], Any]:
    """(what model.json says, the model in its runtime)"""
    import runtimes
    model = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    return model, runtimes.RUNTIMES[model["runtime"]].open(str(folder / model["model"]), model["threads"])


def answers(folder: pathlib.Path, images: "numpy.ndarray") -> "numpy.ndarray":
    """(n, classes): what the model of the folder answers to the images, one by one."""
    import numpy
    import runtimes
    run = runtimes.answers(opened(folder)[1])
    return numpy.concatenate([run(images[i:i + 1]) for i in range(len(images))])


def outputs(folder: pathlib.Path, inputs: Sequence["numpy.ndarray"]) -> List[Tuple[str, "numpy.ndarray"]]:
    """A list of (name, (n, *shape)): the outputs for n samples; inputs: an array (n, *shape) for each input."""
    import numpy
    import runtimes
    model, ready = opened(folder)
    run = runtimes.all_answers(ready)
    by_sample = [run(*[array[i] for array in inputs]) for i in range(len(inputs[0]))]
    return list(zip(model["outputs"], map(numpy.stack, zip(*by_sample))))  # noqa: B905  Python 3.8 has no `strict`


def check_answers(folder: pathlib.Path) -> str:
    """A sentence on the answers. Broken if they are not those that were recorded."""
    import numpy
    with numpy.load(str(folder / GOLDEN)) as golden:
        recorded = dict(golden)
    if "images" not in recorded:
        return check_outputs(folder, recorded)
    images, expected = recorded["images"], recorded["answers"]
    given = answers(folder, images)
    if given.shape != expected.shape or not numpy.isfinite(given).all():
        raise Broken("the model answers {} numbers, not finite or not {}".format(given.shape, expected.shape))
    off = apart(given, expected)
    others = int((given.argmax(1) != expected.argmax(1)).sum())
    words = "{} of {} images get another class than where it was deployed, answers are up to {:.2g} of the largest " \
            "apart".format(others, len(images), off)
    if others or off > LARGEST:
        raise Broken("{}: another version of the runtime, or a CPU that it computes otherwise on".format(words))
    return "{} images get the answers that they got where it was deployed; the largest difference is {:.2g} of the " \
           "largest answer".format(len(images), off)


def check_outputs(folder: pathlib.Path, recorded: Mapping[str, "numpy.ndarray"]) -> str:
    """check_answers of a model with any outputs: each is compared by itself."""
    inputs, expected = numbered(recorded, "input"), numbered(recorded, "output")
    given = outputs(folder, inputs)
    wrong, largest = [], (0.0, given[0][0])
    for (name, got), want in zip(given, expected):  # noqa: B905  Python 3.8 has no `strict`
        if got.shape != want.shape:
            wrong.append("{} has shape {}, not {}".format(name, got.shape[1:], want.shape[1:]))
            continue
        off = apart(got, want)
        largest = max(largest, (off, name))
        if not off <= LARGEST:  # so is NaN
            wrong.append("{} is up to {:.2g} of its largest value apart".format(name, off))
    if wrong or len(given) != len(expected):
        raise Broken("{} of {} outputs are others than where it was deployed ({}): another version of the runtime, or "
                     "a CPU that it computes otherwise on".format(len(wrong), len(expected), ", ".join(wrong)))
    return "{} samples get the {} outputs that they got where it was deployed; the largest difference is {:.2g} of " \
           "the largest value of {}".format(len(inputs[0]), len(given), *largest)


def apart(given: "numpy.ndarray", expected: "numpy.ndarray") -> float:
    """The largest difference, as a share of the largest value."""
    return float(abs(given - expected).max() / max(abs(expected).max(), 1e-9))


def numbered(arrays: Mapping[str, "numpy.ndarray"], kind: str) -> List["numpy.ndarray"]:
    """The arrays kind0, kind1, ... in their order."""
    return [arrays["{}{}".format(kind, i)] for i in range(sum(name.startswith(kind) for name in arrays))]


def record(samples: str, folder: pathlib.Path) -> None:
    """Write the answers to the images in an .npy file to the folder, or the outputs for the samples in an .npz."""
    import numpy
    loaded = numpy.load(samples)
    if isinstance(loaded, numpy.ndarray):
        numpy.savez(str(folder / GOLDEN), images=loaded, answers=answers(folder, loaded))
        return
    inputs: Dict[str, Any] = dict(loaded)
    found = outputs(folder, numbered(inputs, "input"))
    expected: Dict[str, Any] = {"output{}".format(i): array for i, (_, array) in enumerate(found)}
    numpy.savez(str(folder / GOLDEN), **inputs, **expected)


def verify(folder: pathlib.Path) -> Iterator[str]:
    """Yield a sentence for each thing that was checked. Broken if one is not as it was deployed; NotDeployed."""
    manifest = read_manifest(folder)
    more = check_files(folder, manifest["files"])
    yield "{} files are as they were deployed".format(len(manifest["files"]))
    if more:
        yield "besides there are {}".format(", ".join(sorted(more)))
    if GOLDEN not in manifest["files"]:
        yield "answers were not compared: {}".format(manifest.get("no_answers") or "none were recorded")
        return
    sys.path.append(str(folder))  # for mmrt, which no package contains
    yield check_answers(folder)


def main() -> None:
    words = sys.argv[1:]
    if words[:1] == ["--record"] and len(words) == 3:
        sys.path.append(words[2])
        record(words[1], pathlib.Path(words[2]))
        return
    if len(words) > 1 or words[:1] in (["-h"], ["--help"]):
        print(__doc__)
        sys.exit(0 if len(words) == 1 else 2)
    try:
        for line in verify(pathlib.Path(words[0]) if words else pathlib.Path(__file__).resolve().parent):
            print(line, flush=True)
    except Broken as err:
        sys.exit("verify.py: {}".format(err))
    except NotDeployed as err:
        print("verify.py: {}".format(err), file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as err:
        sys.exit("verify.py: {}; the files are whole, but the answers need what infer.py needs".format(err))


if __name__ == "__main__":
    main()
