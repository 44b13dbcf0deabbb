"""Makes a recipe from a command line, for a new run and for one that is resumed. Imports no network and no torch.

The commands are those of all files recipes/<task>_options.py; there is no other list.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Container, Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import tyro

from airank_fast import recipes
from airank_fast.errors import UserError, require
from airank_fast.recipes.options import Command, Request, RunOptions, Submission, check_common, option

O = TypeVar("O")  # noqa: E741
R = TypeVar("R")
SUFFIX = "_options"
ONCE = ("airank_warmup_epochs", "clear_cache", "submission")  # logged at the beginning of a run only
OF_THIS_PROCESS = ("output", "resume", "device", "amp")


@dataclass(frozen=True)
class _Line(Generic[O, R]):
    options: Annotated[O, tyro.conf.arg(name="")]
    recipe: tyro.conf.OmitArgPrefixes[R]
    """What is computed."""


@cache
def commands() -> dict[str, Command]:
    """Every training command by its name, in the order of the tasks' files."""
    found: dict[str, Command] = {}
    for module in pkgutil.iter_modules(recipes.__path__):
        if module.name.endswith(SUFFIX):
            found |= importlib.import_module(f"{recipes.__name__}.{module.name}").COMMANDS
    return found


def parse(arguments: list[str], *, world_size: int = 1, program: str = "", text: str = "") -> Request:
    """The request of the command line `NAME OPTIONS...`; exits with help, or 2 for a line that cannot be parsed.

    UserError where options contradict each other.
    """
    if not arguments or arguments[0] not in commands():
        listed = {name: _listed(command.text) for name, command in commands().items()}
        tyro.extras.subcommand_cli_from_dict(listed, args=arguments, prog=program, description=text)
        raise SystemExit(2)
    command = commands()[arguments[0]]
    first = replace(next(iter(command.recipes.values())), **command.fixed)
    generic: Any = _Line  # of types that are chosen at run time
    kind, options = generic[command.options, type(first)], command.options()
    read = partial(tyro.cli, kind, args=arguments[1:], prog=f"{program} {arguments[0]}")
    # Once for the given options, then over the defaults that depend on them, which --help shows.
    line, _ = read(default=_Line(options, first), add_help=False, return_unknown_args=True)
    request = Request(command=command, options=line.options, recipe=line.recipe, given=given(arguments[1:]))
    defaults = replace(command.defaults(request, world_size), **command.fixed)
    text = f"{command.text} The defaults of the recipe options below are those of the recipe {defaults.name}."
    return replace(request, recipe=read(default=_Line(options, defaults), description=text).recipe)


def _listed(text: str):
    def command() -> None: ...

    command.__doc__ = text
    return command


def given(arguments: Iterable[str]) -> frozenset[str]:
    """Names of the options among arguments: `--no-fused` and `--batch_size=3` give fused and batch_size."""
    names = set()
    for argument in arguments:
        if argument.startswith("--"):
            name = argument[2:].partition("=")[0].partition(".")[0].replace("-", "_")
            names |= {name, name.removeprefix("no_")}
    return frozenset(names)


def resolve(request: Request, precision: str, world_size: int) -> Any:
    """The recipe of a run, with every default filled in and checked. UserError for a setting out of range."""
    recipe = replace(request.recipe, precision=precision)
    check_common(request.options, recipe, request.command.task, world_size)
    return request.command.finish(recipe, request.options)


# -- a run that is resumed --------------------------------------------------------------------------------------------


def resumed(request: Request, recipe: Mapping, options: Mapping) -> Request:
    """The request with the recipe and the options that a run has saved; the given ones must not contradict them."""
    saved = saved_recipe(recipe, request)
    contradictions = [
        (name, getattr(saved, name), getattr(request.recipe, name))
        for name in (f.name for f in fields(saved))
        if name in request.given and getattr(request.recipe, name) != getattr(saved, name)
    ]
    for name, decided in request.command.decides.items():
        value = getattr(request.recipe, decided)
        if name in request.given and decided not in request.given and value != getattr(saved, decided):
            contradictions.append((name, f"{decided} {getattr(saved, decided)}", getattr(request.options, name)))
    for name in ONCE:
        value = _plain(getattr(request.options, name))
        if name in request.given and name in options and value != options[name]:
            contradictions.append((name, options[name], value))
    if contradictions:
        has = ", ".join(f"{name} = {value}" for name, value, _ in contradictions)
        got = ", ".join(f"{option(name)} {value}" for name, _, value in contradictions)
        raise UserError(f"--resume: must be without options that differ from the run's, {has}, got {got}")
    return replace(request, recipe=saved, options=restored(request.options, options, request.given))


def saved_recipe(saved: Mapping, request: Request) -> Any:
    """The recipe of `recipe.json`. A field that it lacks is newer than the run, and has its default.

    UserError where it is another task's, or has a field that this version lacks.
    """
    kind = type(request.recipe)
    saved = {name: tuple(value) if isinstance(value, list) else value for name, value in saved.items()}  # as in JSON
    names = {f.name: f for f in fields(kind)}
    unexpected = sorted(set(saved) - set(names))
    if unexpected:
        listed = ", ".join(unexpected)
        raise UserError(f"--resume: must be a run of this command and version, got a recipe with {listed}")
    base = request.command.recipes.get(str(saved.get("name")))
    values = dict(saved)
    for name, f in names.items():
        if name in saved:
            _check_kind(name, str(f.type), saved[name], getattr(request.recipe, name))
            continue
        if f.default is MISSING and base is None:
            raise UserError(f"--resume: must be a run with a whole recipe.json, got one without {name}")
        values[name] = getattr(base, name) if f.default is MISSING else f.default
    for name, value in request.command.fixed.items():
        if values[name] != value:
            raise UserError(f"--resume: must be a run of this command, with {name} {value}, got {values[name]}")
    return kind(**values)


def _check_kind(name: str, type_name: str, value: object, example: object) -> None:
    """UserError where a value of a recipe.json has another type than its field, of which `example` is a value."""
    expected: tuple[type, ...]
    if type_name == "Target":
        expected = (float, int, dict, type(None))
    elif value is None and "None" in type_name:
        return
    else:
        expected = (float, int) if type(example) in (float, int) else (str if example is None else type(example),)
    what = " or ".join(sorted({"number" if each in (float, int) else each.__name__ for each in expected}))
    require(type(value) in expected, f"recipe.json: {name}", f"a {what}", repr(value))


def restored(options: RunOptions, saved: Mapping, given_names: frozenset[str]) -> Any:
    """`options`, of which a saved run's replace those that are neither given nor of this process alone."""
    values: dict[str, Any] = {}
    for f in fields(options):
        if f.name not in saved or f.name in given_names or f.name in OF_THIS_PROCESS:
            continue
        value = saved[f.name]
        if f.name == "submission" and isinstance(value, Mapping):
            value = Submission(**{g.name: value[g.name] for g in fields(Submission) if g.name in value})
        elif isinstance(value, str) and "Path" in str(f.type):
            value = Path(value)
        values[f.name] = value
    return replace(options, **values)


def to_plain(options: RunOptions, left_out: Container[str]) -> dict[str, Any]:
    """The options as JSON, as `resumed` takes them; without those in `left_out`, the recipe's."""
    return {f.name: _plain(getattr(options, f.name)) for f in fields(options) if f.name not in left_out}


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return str(value) if isinstance(value, Path) else value
