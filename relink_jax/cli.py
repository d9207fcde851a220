"""`relink STAGE [--config=NAME_OR_FILE] [--config.a.b=VALUE] --workdir=DIR`: one command, fast help, did-you-mean.

This module imports neither jax nor absl until a stage runs, so `relink --help` answers at once. Parsing is absl's
(`ml_collections.config_flags` for the config tree); names are checked here first, because a mistyped field deserves the
name of the right one. Every stage is also a plain function: `relink_jax.stages.STAGE.run(config, workdir)`.
"""

import importlib
import importlib.util
import io
import json
import os
import pathlib
import reprlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from relink_jax import config as config_lib
from relink_jax import errors
from relink_jax.stages import catalogue, launch_flags, launch_words
from relink_jax.stages.catalogue import STAGES

_CONFIG_BYTES = 2**20
_SWITCHED = ("true", "t", "1", "false", "f", "0")
_NUMBERS: dict[str, tuple[Callable[[str], Any], str]] = {"int": (int, "a whole number"), "float": (float, "a number")}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `relink` with `argv` (default: the process's arguments, without the program name) and returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without the multiplication sign must not end a run
            stream.reconfigure(errors="replace")
    try:
        return _dispatch(list(sys.argv[1:] if argv is None else argv))
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(catalogue.overview(config_names()), flush=True)
        return 0
    if words[0] in ("--version", "-V"):
        import relink_jax

        print(f"relink_jax {relink_jax.__version__}")
        return 0
    stage = words[0]
    if stage not in STAGES:
        print(f"relink: error: unknown stage {stage!r}: expected one of {', '.join(STAGES)}{errors.suggest(stage, STAGES)}", file=sys.stderr)
        return 2
    return _stage_main(stage)(words[1:])


def launch(stage: str, arguments: Sequence[str]) -> int:
    """Parses one stage's flags, runs `relink_jax.stages.STAGE`, prints what it found and returns the exit code.

    Args:
        stage: a key of `STAGES`.
        arguments: the words after the stage on the command line.
    """
    if any(word in ("-h", "--help", "-help") for word in arguments):
        print(catalogue.stage_help(stage, config_names()), flush=True)
        return 0
    from relink_jax.stages import launching  # with what it imports, only once a stage runs

    return launching.run(stage, arguments, parse)


def parse(stage: str, arguments: Sequence[str]) -> tuple[config_lib.RunConfig, str, list[str], dict[str, Any]]:
    """Returns (config with overrides applied, workdir, positional words, stand-alone flags).

    Overrides are laid over the config that `--config` names; without it, over the one the workdir recorded, so that a later
    stage needs no flag of an earlier one repeated; and in a fresh workdir over `demo`.

    Raises: UsageError: a wrong name or value; StoreError: the config that the workdir recorded is damaged.
    """
    from absl import flags
    from ml_collections import config_flags

    described = STAGES[stage]
    words = launch_flags.taken(arguments)[1]
    name, words = launch_flags.take(words, "config")
    _check_names(stage, words)
    base = _base_config(name, launch_flags.take(words, "workdir")[0])
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_dataclass("config", base, "run configuration", flag_values=values, sys_argv=["relink", *words])
    flags.DEFINE_string("workdir", "", "directory of the run", flag_values=values)
    for alias in described.aliases:
        define = flags.DEFINE_boolean if alias.boolean else flags.DEFINE_string
        define(alias.flag, None, alias.help, flag_values=values)
    try:
        rest = values(["relink", *words])[1:]
        config = holder.value
    except (flags.Error, ValueError, TypeError, SyntaxError, AttributeError) as error:
        raise errors.UsageError(errors.describe("flag", "the command line", f"what 'relink {stage} --help' lists", _one_line(error))) from error
    if rest and not described.positional:
        raise errors.UsageError(errors.describe("extra words", f"'relink {stage}'", "flags only", f"{len(rest)} other words"))
    alone = {alias.flag: values[alias.flag].value for alias in described.aliases if not alias.path}
    for alias in described.aliases:
        value = values[alias.flag].value
        if alias.path and value is not None:
            _assign(config, alias.path, value)
    _coerce_tuples(config)
    return config, str(values["workdir"].value), rest, alone


def config_path(name: str) -> pathlib.Path:
    """Returns the file of a shipped configuration (by name) or the given file; `UsageError` with a suggestion otherwise."""
    direct = pathlib.Path(name)
    if name.endswith((".py", ".json")):
        if not os.path.isfile(direct):
            raise errors.UsageError(errors.describe("config file missing", "--config", "a Python file with get_config(), or JSON", f"no file {direct.name!r}"))
        return direct
    shipped, known = _config_dir() / f"{name}.py", config_names()
    if name not in known:
        found = f"{reprlib.repr(direct.name)}{errors.suggest(direct.name, known)}"
        raise errors.UsageError(errors.describe("unknown config", "--config", f"a .py or .json file, or one of {', '.join(known)}", found))
    return shipped


def load_config(path: pathlib.Path) -> config_lib.RunConfig:
    """Returns the run of a Python file's `get_config()`, or of the JSON that a run recorded; `UsageError` when it is neither."""
    if path.suffix == ".json":
        try:
            if path.stat().st_size > _CONFIG_BYTES:
                raise ValueError("more than 1 MiB")
            return config_lib.from_dict(json.loads(path.read_text()))
        except (ValueError, TypeError, OSError, OverflowError, RecursionError, errors.UsageError) as error:
            found = error.strerror if isinstance(error, OSError) and error.strerror else _one_line(error)
            raise errors.UsageError(errors.describe("config file", f"--config file {path.name!r}", "a recorded config.json", found)) from error
    spec = importlib.util.spec_from_file_location(f"relink_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise errors.UsageError(errors.describe("config file", "--config", "a Python file", repr(path.name)))
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except (Exception, SystemExit) as error:  # the file is the user's code: whatever it raises is told as one sentence
        raise errors.UsageError(
            errors.describe("config file", f"--config file {path.name!r}", "get_config() returning a RunConfig", f"{type(error).__name__}: {_one_line(error)}")
        ) from error
    if not isinstance(config, config_lib.RunConfig):
        raise errors.UsageError(errors.describe("config file", "--config", "get_config() returning a RunConfig", type(config).__name__))
    return config


def config_names() -> list[str]:
    """Returns the names of the shipped configurations."""
    return sorted(path.stem for path in _config_dir().glob("*.py") if path.stem != "__init__")


def _stage_main(stage: str) -> Callable[[Sequence[str]], int]:
    """Returns the main of `launch/STAGE.py`, or of the name that the catalogue gives: from the installed package, or from a checkout that is not installed."""
    installed, name = importlib.util.find_spec("relink_jax.launch") is not None, STAGES[stage].main or stage
    main_of: Callable[[Sequence[str]], int] = importlib.import_module(f"{'relink_jax.' if installed else ''}launch.{name}").main
    return main_of


def _base_config(name: str, workdir: str) -> config_lib.RunConfig:
    """Returns the named config, else the one recorded in the workdir, else `demo`."""
    recorded = pathlib.Path(workdir, "config.json") if workdir else None
    if not name and recorded is not None and os.path.isfile(recorded):
        try:
            return load_config(recorded)
        except errors.UsageError as error:
            raise errors.StoreError(
                errors.describe("recorded config damaged", "workdir file 'config.json'", "what an earlier command wrote, or --config=NAME_OR_FILE", str(error))
            ) from error
    if not name and recorded is not None and os.path.isfile(recorded.with_name("run.json")):
        raise errors.StoreError(
            errors.describe("recorded config missing", "the workdir", "the file config.json of an earlier command, or --config=NAME_OR_FILE", "none")
        )
    return load_config(config_path(name or "demo"))


def _check_names(stage: str, words: Sequence[str]) -> None:
    """Raises `UsageError` with the nearest name for an unknown flag or config field, and for a value that is missing or of another kind."""
    known_fields = {field.path: field.default for field in config_lib.fields(config_lib.RunConfig())}
    aliases = STAGES[stage].aliases
    known_flags = ["config", "workdir", *(alias.flag for alias in aliases), *(f"no{alias.flag}" for alias in aliases if alias.boolean)]
    switches = [name for alias in aliases if alias.boolean for name in (alias.flag, f"no{alias.flag}")]
    for word, after in zip(words, [*words[1:], "--"], strict=False):
        if not word.startswith("--"):
            continue
        name, equals, text = word[2:].partition("=")
        if name.startswith("config."):
            field = name.removeprefix("config.")
            if field not in known_fields:
                hint = errors.suggest(field, known_fields) or errors.suggest(field.split(".")[-1], [path.split(".")[-1] for path in known_fields])
                raise errors.UsageError(f"unknown config field {field!r} on the command line: expected a field of 'relink {stage} --help'{hint}")
        elif name not in known_flags:
            raise errors.UsageError(
                f"unknown flag '--{name}' on the command line of 'relink {stage}': expected one of {', '.join(known_flags)}"
                f"{errors.suggest(name, [*known_flags, *launch_words.LAUNCH])}"
            )
        where = f"flag '--{name}' on the command line"
        if name in switches and equals and not (name in (alias.flag for alias in aliases) and text.lower() in _SWITCHED):
            raise errors.UsageError(errors.describe("value", where, f"--{name} alone", reprlib.repr(text)))
        if name not in switches and not equals and after.startswith("--"):
            raise errors.UsageError(errors.describe("value missing", where, f"--{name}=VALUE", "nothing"))
        if name.startswith("config."):
            _check_value(field, known_fields[field], text if equals else after)


def _check_value(field: str, default: Any, text: str) -> None:
    """Raises `UsageError` unless absl can read `text` as a value of the field that has this default."""
    from ml_collections.config_flags import tuple_parser

    kind = type(default).__name__
    read, expected = _NUMBERS.get(kind, (str, "text"))
    if kind == "tuple":
        read, expected = tuple_parser.TupleParser().parse, f"values with commas between them, such as {catalogue.show(default)}"
    try:
        read(text)
    except ValueError:
        raise errors.UsageError(errors.describe("value", f"config field {field!r}", expected, reprlib.repr(text))) from None


def _assign(config: config_lib.RunConfig, path: str, text: str) -> None:
    current = config_lib.lookup(config, path)
    try:
        value: Any = tuple(text.split(",")) if isinstance(current, tuple) else type(current)(text)
    except ValueError as error:
        raise errors.UsageError(errors.describe("value", f"flag for {path!r}", f"a {type(current).__name__}", repr(text))) from error
    config_lib.assign(config, path, value)


def _coerce_tuples(config: config_lib.RunConfig) -> None:
    """Gives every element of a tuple field the type of the default's elements; absl leaves mixed tuples as they come."""
    defaults = {field.path: field.default for field in config_lib.fields(config_lib.RunConfig())}
    for field in config_lib.fields(config):
        wanted = defaults[field.path]
        if not isinstance(wanted, tuple):
            continue
        kind = type(wanted[0])
        found = field.default if isinstance(field.default, tuple) else (field.default,)
        if kind is str:
            parts = tuple(part.strip() for element in found for part in str(element).split(","))
            found = wanted if wanted == ("",) == parts else () if parts == ("",) and field.path in config_lib.MAY_BE_EMPTY else parts
        try:
            if kind is not str and any(isinstance(element, bool) or (kind is int and isinstance(element, float)) for element in found):
                raise ValueError
            config_lib.assign(config, field.path, tuple(kind(element) for element in found))
        except (TypeError, ValueError, OverflowError) as error:
            raise errors.UsageError(
                errors.describe("list", f"config field {field.path!r}", f"comma-separated {kind.__name__} values", catalogue.show(found))
            ) from error


def _config_dir() -> pathlib.Path:
    spec = importlib.util.find_spec("relink_jax.configs")
    if spec is not None and spec.submodule_search_locations:
        return pathlib.Path(next(iter(spec.submodule_search_locations)))
    return pathlib.Path(__file__).resolve().parent.parent / "configs"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
