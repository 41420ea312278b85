"""Imports of users' files: each file has modules of its own, found and executed by Python's import system.

A file and what it imports from its folder lie in `sys.modules` below a root package that only they know. Their code
runs with an `__import__` that looks there first, also in functions that are called later; the rest of the process
imports as if the folder did not exist.
"""

import ast
import builtins
import hashlib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from itertools import count
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

# This package is the same for everybody, also where a user's file lies beside it.
_PRODUCT = __name__.partition(".")[0]
_PREFIX = "otad_ray_user_"
_numbers = count(1)


class Namespace:
    """The modules of one user's file.

    Attributes:
        files: Paths of the files that were executed, and the SHA-256 of what was executed, in hex.
    """

    def __init__(self, path: Path) -> None:
        self.files: dict[str, str] = {}
        self._path = path
        base = _package_folder(path)
        self._root = ModuleType(f"{_PREFIX}{next(_numbers)}")
        self._root.__path__ = list(dict.fromkeys([str(base), str(path.parent)]))
        parts = path.relative_to(base).with_suffix("").parts
        self._entry = ".".join([self._root.__name__, *(re.sub(r"\W", "_", part) for part in parts)])
        self._process_path = set(sys.path)
        # Top-level names that were looked for in the folder in vain.
        self._foreign: set[str] = set()
        self.builtins = {**vars(builtins), "__import__": self._import}

    def execute(self) -> ModuleType:
        """Execute the file and return its module."""
        importlib.invalidate_caches()
        sys.modules[self._root.__name__] = self._root
        _namespaces[self._root.__name__] = self
        return importlib.import_module(self._entry)

    def find_spec(self, name: str, path: Sequence[str] | None) -> ModuleSpec | None:
        """Find one of the namespace's modules, by its private name."""
        is_entry = name == self._entry
        spec = (
            importlib.util.spec_from_file_location(name, self._path) if is_entry else PathFinder.find_spec(name, path)
        )
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _RecordingLoader(self, name, spec.loader.path)
        elif spec is not None and spec.has_location and spec.origin is not None:
            self.record(spec.origin, Path(spec.origin).read_bytes())
        return spec

    def record(self, path: str, content: bytes) -> None:
        """Take note of a file that is executed."""
        self.files[path] = hashlib.sha256(content).hexdigest()

    def private_name(self, name: str) -> str | None:
        """Return the private name of a module that the file's folder holds; None if it is not the file's own.

        As in a script, the folder comes before what is installed. Folders without an `__init__.py` come last: a folder
        of data called `torch` is no package.
        """
        top = name.partition(".")[0]
        private = f"{self._root.__name__}.{name}"
        if f"{self._root.__name__}.{top}" in sys.modules:
            return private
        if top in self._foreign or top == _PRODUCT or top in sys.builtin_module_names:
            return None
        self._follow_path()
        spec = PathFinder.find_spec(f"{self._root.__name__}.{top}", self._root.__path__)
        if spec is None or (spec.loader is None and self.is_installed(top)):
            return None
        return private

    def is_installed(self, top: str) -> bool:
        """Return whether everybody can import a top-level module; a mere folder of that name does not count."""
        if top in sys.modules:
            return True
        for finder in sys.meta_path:
            if finder is PathFinder:
                # Without the folders that the file itself added.
                found = PathFinder.find_spec(top, [entry for entry in sys.path if entry in self._process_path])
            else:
                found = None if finder is _FINDER else finder.find_spec(top, None)
            if found is not None and found.loader is not None:
                return True
        return False

    def _follow_path(self) -> None:
        """Look in the folders, too, that the file has added to `sys.path`."""
        if _active and _active[-1] is self:
            added = [os.path.abspath(entry) for entry in sys.path if entry not in self._process_path]
            self._root.__path__ = list(dict.fromkeys([*self._root.__path__, *added]))

    def _import(
        self,
        name: str,
        globals: Any = None,  # noqa: A002
        locals: Any = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """Stand in for the built-in function `__import__` in the file and its modules."""
        # C code, such as pickle's, passes an empty list, and then looks the plain name up in `sys.modules`.
        is_statement = level == 0 and fromlist != []
        private = self.private_name(name) if is_statement else None
        if private is None:
            module = builtins.__import__(name, globals, locals, fromlist or (), level)
            if is_statement:
                self._foreign.add(name.partition(".")[0])
            return self._importlib() if module is importlib else module
        if fromlist:
            return builtins.__import__(private, globals, locals, fromlist, 0)
        importlib.import_module(private)
        return sys.modules[f"{self._root.__name__}.{name.partition('.')[0]}"]

    def _importlib(self) -> ModuleType:
        """Return `importlib` as the file sees it: `import_module`, too, finds the file's own modules."""
        twin = ModuleType("importlib", importlib.__doc__)
        twin.__dict__.update(vars(importlib), import_module=self._import_module)
        return twin

    def _import_module(self, name: str, package: str | None = None) -> ModuleType:
        private = None if name.startswith(".") else self.private_name(name)
        return importlib.import_module(name, package) if private is None else importlib.import_module(private)


@contextmanager
def visible_to_pickle(namespace: Namespace) -> Iterator[None]:
    """Let a file's modules be imported by their plain names within the block, if nothing installed has that name.

    A file may read a network that was pickled with its class, which `pickle` imports by name. The plain names are gone
    after the block.
    """
    aliases = set(_aliases)
    _active.append(namespace)
    try:
        yield
    finally:
        _active.pop()
        for name in _aliases - aliases:
            sys.modules.pop(name, None)
        _aliases.intersection_update(aliases)


# By the name of the root package; those whose code runs right now; plain names that are in `sys.modules` meanwhile.
_namespaces: dict[str, Namespace] = {}
_active: list[Namespace] = []
_aliases: set[str] = set()


class _Finder(MetaPathFinder):
    """Finds modules of users' files by their private names, and while a file is loaded by their plain ones."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        namespace = _namespaces.get(fullname.partition(".")[0])
        if namespace is not None:
            return namespace.find_spec(fullname, path)
        if not _active:
            return None
        parent, _, _ = fullname.rpartition(".")
        if parent and parent not in _aliases:
            return None
        private = _active[-1].private_name(fullname)
        if private is None or importlib.util.find_spec(private) is None:
            return None
        if not parent and _active[-1].is_installed(fullname):
            return None
        return ModuleSpec(fullname, _AliasLoader(private))


class _RecordingLoader(SourceFileLoader):
    """Executes the bytes that it records, never bytecode of an earlier content, and with the namespace's imports."""

    def __init__(self, namespace: Namespace, name: str, path: str) -> None:
        super().__init__(name, path)
        self._namespace = namespace

    def get_code(self, fullname: str) -> CodeType:
        content = self.get_data(self.path)
        self._namespace.record(self.path, content)
        return self.source_to_code(content, self.path)

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__builtins__"] = self._namespace.builtins
        super().exec_module(module)


class _AliasLoader(Loader):
    """Gives a module of the active namespace a second, plain name."""

    def __init__(self, private: str) -> None:
        self._private = private

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = importlib.import_module(self._private)
        _aliases.add(module.__name__)


def _package_folder(path: Path) -> Path:
    """Return the folder that a file's module names begin in.

    For a file with relative imports in a package, that is the folder of the outermost package; else its own.
    """
    folder = path.parent
    if not (folder / "__init__.py").is_file() or not _has_relative_imports(path):
        return folder
    while (folder / "__init__.py").is_file() and folder.name.isidentifier():
        folder = folder.parent
    return folder


def _has_relative_imports(path: Path) -> bool:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        # Executing the file says what is wrong with it.
        return False
    return any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree))


_FINDER = _Finder()
sys.meta_path.insert(0, _FINDER)
