"""Makes ``docs/settings.md`` from the schema and ``conf/``: python -m loaderlab.cli.settings_page > docs/settings.md."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import Field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from loaderlab.cli.schemas import CONF, SCHEMAS
from loaderlab.config import CompareConfig, SweepSlurmConfig, TraceConfig, TrainConfig, TuneConfig
from loaderlab.config.base import LARGEST, MISSING

HEAD = """# Settings

Every group, choice and setting of a run. Type `group=choice` and `name=value`. Add `--help` to a command to see the
values that its choices set. `python -m loaderlab.cli.settings_page` makes this page from the schema.

A setting that depends on others is `auto` by default. The value chosen for `auto` is printed at the start of a run and
recorded as `….in_force.…`. A value in square brackets, a list, needs quotes in a shell: `'data.transform.scale=[0.5,1.0]'`.
"""
GROUPS = {
    "data": "The samples.",
    "model": "The trained model.",
    "loader": "How samples reach the device.",
    "precision": "The number format of the computation in a step.",
    "optimizer": "How the weights are updated.",
    "accelerator": "An emulated accelerator of a known speed instead of a real step. See [a GPU you do not have](ci.md).",
    "launch": "The ranks of a job, and where they run. See [many ranks](ranks.md).",
    "measure": "The measurements.",
    "tracking": "Where runs are recorded.",
    "study": "A sweep that is ready to run: `study=workers`. Settings that you type replace those of the study.",
    "rung": "One rung of `study=ladder`. A rung also has the changes of the rungs before it, where they apply.",
}
COLUMNS = "| setting | default | meaning |\n|---|---|---|"


def markdown() -> str:
    """The text of the page."""
    lines = [HEAD, "## A run", "", *_table(TrainConfig, ""), ""]
    for name in ("checkpoint", "sweep", "fail_if"):
        lines += [f"### {name}", "", *_table(_kind(TrainConfig, name), f"{name}."), ""]
    lines += ["### sweep.slurm", "", *_table(SweepSlurmConfig, "sweep.slurm."), ""]
    for group, meaning in GROUPS.items():
        lines += [f"## {group}", "", meaning, ""]
        lines += [f"| {group}= | |", "|---|---|"]
        lines += [f"| `{path.stem}` | {_comment(path)} |" for path in _choices(group)]
        lines += ["", *(_schemas(group) if group in SCHEMAS else ())]
    lines += ["## The tuner", "", "`loaderlab tune`, `python -m experiments.tune`; a run's settings apply too", ""]
    lines += [*_table(TuneConfig, "tune."), ""]
    lines += [
        "## A comparison",
        "",
        "`loaderlab compare`, `python -m experiments.compare`",
        "",
        *_table(CompareConfig, ""),
    ]
    lines += ["", "### fail_if", "", *_table(_kind(CompareConfig, "fail_if"), "fail_if."), ""]
    lines += ["## A trace", "", "`loaderlab trace`, `python -m experiments.trace`", "", *_table(TraceConfig, "")]
    return "\n".join(lines).rstrip() + "\n"


def _schemas(group: str) -> Iterator[str]:
    """The lines of a group: the settings of each dataclass, then the values that each choice sets."""
    nested: dict[str, type] = {}
    for schema, kind in SCHEMAS[group].items():
        choices = [path for path in _choices(group) if _schema_of(path) == schema]
        own = [entry for entry in fields(kind) if not is_dataclass(_type(entry))]
        nested |= {entry.name: _type(entry) for entry in fields(kind) if is_dataclass(_type(entry))}
        if own:
            yield f"### {', '.join(f'{group}={path.stem}' for path in choices)}"
            yield ""
            yield from _table(kind, f"{group}.")
            yield ""
    for name, kind in nested.items():
        yield f"### {group}.{name}"
        yield ""
        yield from _table(kind, f"{group}.{name}.")
        yield ""
    values = [(path.stem, text) for path in _choices(group) if (text := ", ".join(_own_values(path, group)))]
    if values:
        yield "Values that a choice sets, instead of the defaults above:"
        yield ""
        yield from ("| choice | sets |", "|---|---|")
        yield from (f"| `{name}` | {text} |" for name, text in values)
        yield ""


def _table(kind: type, prefix: str) -> list[str]:
    """A row for each setting of a dataclass; groups of settings are left out."""
    rows = []
    for entry in fields(kind):
        if is_dataclass(_type(entry)):
            continue
        limits = "; ".join(_limits(entry))
        meaning = entry.metadata["doc"] + (f" ({limits})" if limits else "")
        default = _default(entry) if prefix or entry.name not in GROUPS else _default_choice(kind, entry.name)
        rows.append(f"| `{prefix}{entry.name}` | {default} | {_cell(meaning)} |")
    return [COLUMNS, *rows]


def _default_choice(kind: type, group: str) -> str:
    """The default choice of a group in a run or comparison, as a link to the group's section."""
    name = "compare" if kind is CompareConfig else "train"
    given: Any = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"), resolve=False)
    choices = {key: value for entry in given["defaults"] if isinstance(entry, dict) for key, value in entry.items()}
    return f"[`{choices[group] or 'null'}`](#{group})"


def _limits(entry: Field[Any]) -> Iterator[str]:
    choices, least, most = (entry.metadata[name] for name in ("choices", "at_least", "at_most"))
    if choices:
        yield f"one of {', '.join(f'`{choice}`' for choice in choices)}"
    if least is not None:
        yield f"at least {least:g}"
    if least is not None and most < LARGEST:
        yield f"at most {most}"


def _default(entry: Field[Any]) -> str:
    value = entry.default_factory() if entry.default_factory is not NO_DEFAULT else entry.default
    if value == MISSING:
        return "must be given"
    if value is None:
        return "`null`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _own_values(path: Path, group: str) -> Iterator[str]:
    """The values that a choice's file sets, as overrides to type."""
    for name, value in _flat(OmegaConf.to_container(OmegaConf.load(path), resolve=False), f"{group}."):
        text = str(value).lower() if isinstance(value, bool) else str(value).replace(" ", "")
        yield f"`{name}={text}`"


def _flat(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if name == "defaults":
            continue
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _choices(group: str) -> list[Path]:
    return sorted((CONF / group).glob("*.yaml"))


@cache
def _schema_of(path: Path) -> str:
    """The schema of a choice, named in its file or in that of another choice which it extends."""
    first = OmegaConf.to_container(OmegaConf.load(path))["defaults"][0]  # type: ignore[index,call-overload]
    return str(next(iter(first.values()))) if isinstance(first, dict) else _schema_of(path.with_stem(str(first)))


def _comment(path: Path) -> str:
    """The comment at the top of a choice's file, as one line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comments = [line.removeprefix("# ") for line in lines if line.startswith("# ") and not line.startswith("# @")]
    return _cell(" ".join(comments))


def _kind(kind: type, name: str) -> type:
    return _type(next(entry for entry in fields(kind) if entry.name == name))


def _type(entry: Field[Any]) -> type:
    """The dataclass of a group of settings; NoneType or another type for a single setting."""
    factory = entry.default_factory
    return factory if isinstance(factory, type) else type(None)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(markdown(), end="")
