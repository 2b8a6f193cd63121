"""Finds plugins through the entry-point group `ssmtl` and turns what users write into specs."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, version
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple, Self, TypeVar, get_args, get_type_hints

import click
import pluggy

from ssmtl_toolkit import hookspecs
from ssmtl_toolkit import text as spec_text
from ssmtl_toolkit.declared import check_declared
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.foreign import LONGEST, SLOW, by_the_user, ctrl_c, guarded, tell_slow, words_of
from ssmtl_toolkit.installed import GROUP, OURS, distribution_of, others, points, switched_off, version_of
from ssmtl_toolkit.places import names_a_place
from ssmtl_toolkit.specs import BackboneSpec, Spec, stamp
from ssmtl_toolkit.text import did_you_mean, printable

S = TypeVar("S", bound=Spec)
UNREGISTERED = "an unregistered class"


def hooks_of(module: ModuleType) -> dict[str, type[Spec]]:
    """The hooks in a module, in its order, and for each the kind of spec that its annotation says it returns."""
    hooks = {name: function for name, function in vars(module).items() if name.startswith("ssmtl_")}
    items = {name: get_args(get_type_hints(hook)["return"])[0] for name, hook in hooks.items()}
    return {name: get_args(item)[0] for name, item in items.items() if get_args(item)}


HOOKS = hooks_of(hookspecs)
COMMANDS = "ssmtl_commands"  # the hook that gives no specs


@dataclass(frozen=True)
class Plugin:
    """One entry point: which distribution it comes from, and why it failed, if it did."""

    name: str
    distribution: str
    version: str
    error: str = ""

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}".rstrip()


@dataclass(frozen=True)
class Entry:
    """One registered spec class and the plugin it comes from."""

    spec: type[Spec]
    plugin: Plugin


class Registry:
    """All spec classes of the installed plugins, by kind and name, and their commands by name."""

    def __init__(self, points: list[EntryPoint], failed: Mapping[tuple[str, str], str] = MappingProxyType({})) -> None:
        """`failed` says why plugins, by distribution and name, cannot even be imported in this process."""
        self.plugins: list[Plugin] = []
        self.entries: dict[tuple[str, str], Entry] = {}
        self.commands: dict[str, tuple[click.Command, Plugin]] = {}
        loaded = []
        for point in sorted(points, key=lambda p: (distribution_of(p) != OURS, distribution_of(p), p.name)):
            plugin = Plugin(point.name, distribution_of(point), version_of(point))
            reason = failed.get((plugin.distribution, plugin.name), "")
            loaded.append((replace(plugin, error=reason), Parts([], [])) if reason else _loaded(plugin, point))
        for plugin, parts in _apart(loaded):
            self._add(plugin, parts)

    def add_file(self, file: Path) -> None:
        """Load a plugin from a file of Python code that is no package; as of a script, its folder can be imported from.

        Raises:
            UsageError: it does not exist, has the name of something else, claims a name that is taken, or cannot be
                loaded.
        """
        try:
            with guarded(f"--plugin {printable(file)}"):
                parts = _parts_of(_module_of(file), file.stem).built()
        except BaseException as problem:
            if isinstance(problem, UsageError) or by_the_user(problem):
                raise
            raise UsageError(f"--plugin {printable(file)}: cannot be loaded: {_said(problem)}") from problem
        plugin = Plugin(file.stem, file.name, "")
        owners: dict[tuple[str, str], tuple[object, Plugin]] = {
            **{key: (entry.spec, entry.plugin) for key, entry in self.entries.items()},
            **{("command", name): owner for name, owner in self.commands.items()},
        }
        for key, part in parts.claims().items():
            known, owner = owners.get(key, (part, plugin))
            if known is not part:
                raise UsageError(f"--plugin {printable(file)}: {_claimed(key, [owner, plugin])}")
        self._add(plugin, parts)

    def _add(self, plugin: Plugin, parts: Parts) -> None:
        self.plugins.append(plugin)
        for spec in parts.specs:
            self.entries[spec.kind, spec.name] = Entry(spec, plugin)
            if plugin.distribution != OURS:
                stamp(spec, str(plugin))
        for command in parts.commands:
            self.commands[str(command.name)] = command, plugin

    @property
    def broken(self) -> list[Plugin]:
        """The plugins that could not be loaded; everything else works without them."""
        return [plugin for plugin in self.plugins if plugin.error]

    def of(self, kind: type[S]) -> Iterator[type[S]]:
        """All spec classes of one kind, the bundled ones first."""
        for entry in self.entries.values():
            if issubclass(entry.spec, kind):
                yield entry.spec

    def has(self, kind: str, name: str) -> bool:
        """Whether a part of this kind and name is registered."""
        return (kind, name) in self.entries

    def find(self, kind: type[S], name: str) -> type[S]:
        """Look up one spec class.

        Raises:
            UsageError: with the nearest name, the known ones, and the plugins that failed to load.
        """
        known = {spec.name: spec for spec in self.of(kind)}
        if name not in known:
            broken = "".join(f"\nplugin {p.name!r} of {p} did not load: {p.error}" for p in self.broken)
            names = ", ".join([*known, "plugins are switched off" if switched_off() else "more with plugins"])
            raise UsageError(f"no {kind.kind} named {name!r}{did_you_mean(name, known)} (known: {names}){broken}")
        return known[name]

    def resolve(self, kind: type[S], given: str | S) -> S:
        """Turn `name:key=value,…` into a spec; a spec object is returned as it is."""
        if isinstance(given, kind):
            return given
        if not isinstance(given, str):
            raise UsageError(f"expected a {kind.kind} spec or its text, got {given!r}")
        name, options = spec_text.split(given)
        return self.find(kind, name).parse(options)

    def restore(
        self, kind: type[S], described: Mapping[str, Any], source: str, classes: Iterable[type[Spec]] = ()
    ) -> S:
        """Make the spec that the file `source` describes as `origin` does.

        `classes` are known beside those of plugins, such as one that a notebook defines.

        The content of a file must not cause anything to be fetched or read: a backbone's `weights` is dropped, as the
        file's own weights replace them, and an option that names a path, a URL or a model on a hub is refused.

        Raises:
            UsageError: naming the distribution that has to be installed, the option that it no longer knows, or
                the one that names a place.
        """
        text: str = described["spec"]
        text = _without_weights(text) if issubclass(kind, BackboneSpec) else text
        name, options = spec_text.split(text)
        given = [cls for cls in classes if issubclass(cls, kind) and cls.name == name]
        try:
            spec = given[0].parse(options) if given else self.resolve(kind, text)
        except UsageError as error:
            origin = printable(
                f"{described.get('distribution') or UNREGISTERED} {described.get('version', '')}".strip()
            )
            installed = {entry.plugin.distribution: entry.plugin.version for entry in self.entries.values()}
            if all(spec.name != name for spec in self.of(kind)) and described.get("distribution") not in installed:
                raise UsageError(f"{source}: needs the {kind.kind} {name!r} of {origin}, {to_get(origin)}") from None
            reasons = "\n".join(map(printable, str(error).split("\n")))
            raise UsageError(f"{source}: was made with {origin}: {reasons}") from None
        for option, value in spec.model_dump(mode="json").items():
            if place := next((word for word in _texts(value) if names_a_place(word)), None):
                raise UsageError(
                    f"{source}: its {kind.kind} {spec.name!r} has {option}={place!r}: a file must not name a path, "
                    f"a URL or a model on a hub; train with a {kind.kind} that is installed here and named without one"
                )
        return spec

    def origin(self, spec: Spec) -> dict[str, Any]:
        """Which distribution and version a spec comes from ("" for a class that was never registered)."""
        entry = self.entries.get((spec.kind, spec.name))
        known = entry is not None and entry.spec is type(spec)
        plugin = entry.plugin if entry and known else Plugin("", "", "")
        return {"spec": spec.full(), "distribution": plugin.distribution, "version": plugin.version}


@cache
def registry() -> Registry:
    """Load the installed plugins, once. `SSMTL_DISABLE_PLUGINS=1` disables those that are not bundled."""
    return Registry(points(), _fatal)


_fatal: dict[tuple[str, str], str] = {}
"""Why plugins, by distribution and name, must not be imported in this process."""


def try_apart() -> None:
    """Before `registry()` is first called: import each plugin that is not bundled in a process of its own.

    So one that ends the process in a way that Python cannot catch, or never returns, is named like any that fails.
    """
    points = others()
    command = [sys.executable, "-c", f"import sys; from {__name__} import try_alone; try_alone(*sys.argv[1:])"]
    processes = [
        subprocess.Popen([*command, point.name, point.value], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        for point in points
    ]
    for point, process in zip(points, processes, strict=True):
        if problem := _how_it_ended(process, point):
            _fatal[distribution_of(point), point.name] = problem


_ALIVE = b"\nstill here: "


def try_alone(name: str, value: str) -> None:
    """Import the plugin of this entry point, and say what it raised, and that this process is still there."""
    signal.signal(signal.SIGINT, ctrl_c)
    plugin, _ = _loaded(Plugin(name, "?", "?"), EntryPoint(name, value, GROUP))
    os.write(1, _ALIVE + plugin.error.encode())


def _how_it_ended(process: subprocess.Popen[bytes], point: EntryPoint) -> str:
    """Wait for a process of `try_apart`; why its plugin cannot be imported, or ""."""
    said = b""
    for seconds in (SLOW, LONGEST):
        try:
            said, _ = process.communicate(timeout=seconds)
            break
        except subprocess.TimeoutExpired:
            tell_slow(f"plugin {point.name!r} of {distribution_of(point)}", seconds)
    else:
        process.kill()
        process.communicate()
        return f"its import takes more than {LONGEST:g} s, and cannot be interrupted"
    _, alive, error = said.rpartition(_ALIVE)
    code = process.returncode
    ended = f"by signal {-code}" if code < 0 else f"with exit code {code}"
    return error.decode() if alive else f"its import ends the process, {ended}"


def _loaded(plugin: Plugin, point: EntryPoint) -> tuple[Plugin, Parts]:
    """Import a plugin and ask its hooks; a broken one must not disable the others."""
    try:
        with guarded(f"plugin {plugin.name!r} of {plugin}", watched=plugin.distribution != OURS):
            parts = _parts_of(point.load(), point.name)
            return plugin, parts if plugin.distribution == OURS else parts.built()
    except BaseException as problem:
        if by_the_user(problem):
            raise
        return replace(plugin, error=_said(problem)), Parts([], [])


def _said(problem: BaseException) -> str:
    """All that an exception says, in one line."""
    return printable(" ".join([f"{type(problem).__name__}:", *words_of(problem).split()]).removesuffix(":"))


def _apart(loaded: Sequence[tuple[Plugin, Parts]]) -> Iterator[tuple[Plugin, Parts]]:
    """Fail each plugin that claims what a bundled one has; of several others with one name all, for none is meant."""
    claims: dict[tuple[str, str], dict[int, Plugin]] = defaultdict(dict)
    for plugin, parts in loaded:
        for key, part in parts.claims().items():
            claims[key][id(part)] = plugin
    for plugin, parts in loaded:
        taken = next((key for key in parts.claims() if len(claims[key]) > 1), None)
        if taken is None or plugin.distribution == OURS:
            yield plugin, parts
        else:
            yield replace(plugin, error=_claimed(taken, list(claims[taken].values()))), Parts([], [])


def _claimed(key: tuple[str, str], plugins: Sequence[Plugin]) -> str:
    """Why plugins that claim one name are not loaded, and what to do."""
    owners = [f"{plugin} (entry point {plugin.name!r})" for plugin in plugins]
    bundled = plugins[0].distribution == OURS
    return (
        f"two plugins claim the {key[0]} {key[1]!r}: {' and '.join(owners)}; uninstall or rename "
        f"{f'it in {plugins[-1].distribution}' if bundled else 'one of them'}"
    )


def _without_weights(text: str) -> str:
    """The spec without the option `weights`."""
    name, options = spec_text.split(text)
    positional, named = spec_text.read_options(options)
    kept = [(None, value) for value in positional] + [(k, v) for k, v in named.items() if k != "weights"]
    return f"{name}:{spec_text.write_options(kept)}" if kept else name


def _texts(value: Any) -> Iterator[str]:
    """All texts in a value of JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (text for pair in value.items() for part in pair for text in _texts(part))
    elif isinstance(value, list):
        yield from (text for part in value for text in _texts(part))


def to_get(origin: str) -> str:
    """How to get a plugin that is missing, by its distribution and version, or the file that it was."""
    if origin.endswith(".py"):
        return "a file; give it with --plugin"
    if origin.startswith(UNREGISTERED):
        return "not installed here; give the class: spec=…, in Python"
    return "not installed here; install it with pip"


def _module_of(file: Path) -> ModuleType:
    """Import a file by its name."""
    if not file.is_file() or file.suffix != ".py":
        raise UsageError(f"--plugin {printable(file)}: {'is no .py file' if file.exists() else 'no such file'}")
    place = file.resolve()
    sys.path.append(str(place.parent))
    found = find_spec(file.stem) if file.stem.isidentifier() else None
    if found is None or found.origin is None or Path(found.origin).resolve() != place:
        raise UsageError(f"--plugin {printable(file)}: another module is called {file.stem!r}; rename the file")
    return import_module(file.stem)


class Parts(NamedTuple):
    """What the hooks of a plugin give."""

    specs: list[type[Spec]]
    commands: list[click.Command]

    def claims(self) -> dict[tuple[str, str], object]:
        """Each part by its kind and name."""
        specs: dict[tuple[str, str], object] = {(spec.kind, spec.name): spec for spec in self.specs}
        return specs | {("command", str(command.name)): command for command in self.commands}

    def built(self) -> Self:
        """The same, once pydantic has made their validators, which it otherwise does when a class is first used.

        A class that it cannot make one for, or that says wrong things of itself, raises here, and not in the midst of
        a command.
        """
        for spec in self.specs:
            check_declared(spec, next(kind for kind in HOOKS.values() if issubclass(spec, kind)))
            spec.model_rebuild(raise_errors=False)
        return self


def _parts_of(module: ModuleType, plugin: str) -> Parts:
    """Check all that the hooks in a module return."""
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    manager.register(module, name=plugin)
    hooks = [*HOOKS, COMMANDS]
    for name, member in vars(module).items():
        if hasattr(member, "ssmtl_impl") and name not in hooks:  # what @hookimpl leaves behind
            raise TypeError(f"there is no hook {name}{did_you_mean(name, hooks)} (there are {', '.join(hooks)})")
    if not manager.get_hookcallers(module):
        raise TypeError("it registers nothing; is @hookimpl above its hook, in the module of the entry point?")
    manager.check_pending()
    specs: list[type[Spec]] = []
    for hook, kind in HOOKS.items():
        for classes in getattr(manager.hook, hook)():
            if not isinstance(classes, list | tuple):
                raise TypeError(f"{hook} must return a list of classes, got {classes!r}")
            for spec in classes:
                if not (isinstance(spec, type) and issubclass(spec, kind)):
                    raise TypeError(f"{hook} must return subclasses of {kind.__name__}, got {spec!r}")
                if "name" not in vars(spec):
                    raise TypeError(f"{spec.__qualname__} has no name; give it `name: ClassVar[str] = …`")
                if inspect.isabstract(spec):
                    missing = ", ".join(sorted(spec.__abstractmethods__))
                    raise TypeError(f"{spec.__qualname__} does not define {missing}")
                if any((spec.kind, spec.name) == (other.kind, other.name) for other in specs if other is not spec):
                    raise TypeError(f"it has two classes for the {spec.kind} {spec.name!r}; rename one")
                specs.append(spec)
    return Parts(specs, _commands_of(manager))


def _commands_of(manager: pluggy.PluginManager) -> list[click.Command]:
    commands: list[click.Command] = []
    for given in getattr(manager.hook, COMMANDS)():
        if not isinstance(given, list | tuple):
            raise TypeError(f"{COMMANDS} must return a list of Click commands, got {given!r}")
        for command in given:
            if not (isinstance(command, click.Command) and command.name):
                raise TypeError(f"{COMMANDS} must return Click commands with names, got {command!r}")
            commands.append(command)
    return commands


def our_version() -> str:
    """The installed version of ssmtl_toolkit."""
    return version(OURS)
