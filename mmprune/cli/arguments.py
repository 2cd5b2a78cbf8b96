"""Parses the arguments of commands into the types of the library. Nothing heavy is imported."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmprune.cluster import RAY, Cluster
from mmprune.models.named import ModelOptions, Named
from mmprune.recipes import make_recipe
from mmprune.records import Recipe, crop_fraction

if TYPE_CHECKING:
    from mmprune.boards import Measuring
    from mmprune.budget.plan import Goal
    from mmprune.results.choose import Budget
    from mmprune.workflow import BuildOptions


def numbers(text: str | None, option: str) -> tuple[float, ...] | None:
    try:
        return tuple(float(part) for part in text.split(",")) if text else None
    except ValueError:
        words = f"{text!r} is not a number, or several numbers separated by commas"
        raise click.BadParameter(words, param_hint=option) from None


def size(text: str | None) -> tuple[int, int] | None:
    """(height, width) in pixels from "224" or "128x256"."""
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(s.strip().isascii() and s.strip().isdigit() and int(s) > 0 for s in sides):
        words = f"{text!r} is not a size in pixels, such as 224 or 128x256 (height x width)"
        raise click.BadParameter(words, param_hint="--img-size")
    return int(sides[0]), int(sides[-1])


def fraction(text: str | None, option: str) -> float | None:
    """The fraction from a number, or from "crop/resize" in pixels such as 224/256 (see records.crop_fraction)."""
    if text is None:
        return None
    try:
        crop, _, resize = text.partition("/")
        return crop_fraction(float(crop), float(resize)) if resize else float(crop)
    except (ValueError, ZeroDivisionError):
        words = f"{text!r} is not a fraction, such as 0.875 or 224/256"
        raise click.BadParameter(words, param_hint=option) from None


def names(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip()) if text else ()


def named(words: dict[str, Any]) -> Named:
    """The Named of a command with model_options."""
    options = ModelOptions(words["num_classes"], words["in_chans"], size(words["img_size"]), words["pretrained"],
                           numbers(words["mean"], "--mean"), numbers(words["std"], "--std"), words["interpolation"],
                           fraction(words["crop_pct"], "--crop-pct"), words["crop_mode"], words["crop_all"])
    return Named(words["model"], words["weights"], words["data"], options, words["seed"],
                 words.get("class_order", "auto"))


def recipe(words: dict[str, Any]) -> Recipe:
    """The Recipe from --recipe and the options that change it."""
    return make_recipe(words["recipe"], words.get("epochs"), words.get("lr"), words.get("batch_size"),
                       words.get("qat", False))


def measuring(words: dict[str, Any], *, again: bool) -> Measuring:
    """The Measuring from --profile, --threads, --runtime and options.HOST, without the hosts."""
    from mmprune.boards import Measuring

    return Measuring(words["profile"], words["threads"], names(words.get("runtimes")), words["ssh_config"],
                     words["keep_on_board"], words["power_modes"] is not None, words["pin_clocks"], again)


def build_options(words: dict[str, Any]) -> BuildOptions:
    """The options of `build`."""
    from exporters.int8.settings import Int8
    from mmprune.workflow import BuildOptions

    return BuildOptions(
        words["target"], words["out"], named(words), recipe(words), words["score"], names(words["strategies"]),
        goal(words), words["pattern"], words["ranges"], names(words["formats"]), names(words["precision"]),
        Int8(words["calibration_method"], words["bias_correction"], words["max_drop"]), words["calibration"],
        words["jetpack"], words["hosts"], measuring(words, again=False), words["device"], words["jobs"],
        shlex.join(["mmprune", *sys.argv[1:]]), words["total_sparsity"],
        words["bfloat16"], words["keep"], words["job_cpus"], cluster(words))


def cluster(words: dict[str, Any]) -> Cluster | None:
    """The Ray cluster of --executor ray; None for this machine. UsageError for what only Ray can do."""
    if words["executor"] == RAY:
        if words["address"] is not None and words["jobs"] is not None:
            raise click.UsageError("--jobs is for this machine; the cluster at --address runs what it has room for")
        on_gpu = words["device"] != "cpu"
        return Cluster(words["address"], on_gpu if words["job_gpus"] is None else words["job_gpus"])
    for option in ("address", "job_gpus"):
        if words[option] is not None:
            raise click.UsageError(f"--{option.replace('_', '-')} needs --executor ray")
    return None


def goal(words: dict[str, Any]) -> Goal | None:
    """The budget that `build` is given; None without one. UsageError for two."""
    from mmprune.budget.plan import Goal

    latency, speedup = words["max_latency_ms"], words["speedup"]
    if latency is not None and speedup is not None:
        raise click.UsageError("give --max-latency-ms or --speedup, not both")
    return None if latency is None and speedup is None else Goal(latency and latency / 1e3, speedup)


def budget(words: dict[str, Any]) -> Budget:
    """The limits of `choose`."""
    from mmprune.results.choose import Budget
    from mmprune.results.units import mib

    latency, drop, percentile = words["max_latency_ms"], words["max_drop"], words["percentile"]
    energy = words["max_energy_mj"]
    return Budget(latency and latency / 1e3, percentile and int(percentile), mib(words["max_size_mb"]),
                  mib(words["max_memory_mb"]), words["min_accuracy"], words["runtime"],
                  None if drop is None else drop / 100, words["prefer"], energy and energy / 1e3)


def one_host(hosts: tuple[str, ...]) -> str | None:
    """The host of a command that measures on one board; None for this machine. UsageError for several."""
    if len(hosts) > 1:
        raise click.UsageError(f"give --host once, not {len(hosts)} times")
    return hosts[0] if hosts else None


def hosts_and_targets(target: str | None, fleet: Path | None, hosts: tuple[str, ...]) -> list[tuple[str | None, str]]:
    """The (host, target) pairs of `bench`, from --target and --host or from --fleet. UsageError without either."""
    from targets.fleet import read_fleet

    if (target is None) == (fleet is None):
        raise click.UsageError("give --target or --fleet")
    if fleet is None:
        return [(host, str(target)) for host in dict.fromkeys(hosts) or [None]]
    if hosts:
        raise click.UsageError("--fleet already names the hosts; leave out --host")
    return [(job.host, job.target) for job in read_fleet(fleet)]
