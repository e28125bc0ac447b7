"""The docstrings of what is public: their examples run, and no part is missing."""

import ast
import doctest
import functools
import importlib
import inspect
import re
import textwrap
from pathlib import Path

import matplotlib
import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("compsgd", "compsgd.comm", "compsgd.comm.fsdp", "compsgd.plots", "compsgd.history")
MATHEMATICS = ("compsgd", "compsgd.comm", "compsgd.comm.fsdp")
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
# What raises SettingError for whoever calls it.
CHECKS = re.compile(r"^(check_\w+|of_client|VoteSettings|Membership|set_params)$")


def public_objects(packages):
    """{dotted name: the function or class}; constants and aliases of types have no docstring."""
    found = {}
    for package in packages:
        module = importlib.import_module(package)
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                found[f"{package}.{name}"] = value
    return found


PUBLIC = public_objects(PACKAGES)
OF_MATHEMATICS = public_objects(MATHEMATICS)
each_public = pytest.mark.parametrize("name", PUBLIC)


def docs_of(value):
    """The docstring; a class's includes that of its __init__, as `help()` shows them."""
    docs = [value.__doc__ or ""]
    if inspect.isclass(value):
        docs.append(inspect.getdoc(value.__init__) or "")
    return "\n".join(docs)


def has_part(docs, part):
    return re.search(rf"^\s*{part}:(\s|$)", docs, re.MULTILINE) is not None


@functools.cache
def tree_of(function):
    return ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))


def raises(function):
    """Whether its body raises, or calls a check that does."""
    nodes = list(ast.walk(tree_of(function)))
    if any(isinstance(node, ast.Raise) and node.exc is not None for node in nodes):
        return True
    calls = [node.func for node in nodes if isinstance(node, ast.Call)]
    names = [getattr(call, "attr", getattr(call, "id", "")) for call in calls]
    return any(CHECKS.match(name) for name in names)


def own_init(value):
    """A class's own __init__, or a function itself; None where nobody has written one."""
    if not inspect.isclass(value):
        return value
    init = vars(value).get("__init__")
    is_written = inspect.isfunction(init) and init.__module__ == value.__module__
    return init if is_written and init.__code__.co_filename != "<string>" else None


def public_methods(value):
    for name, method in vars(value).items():
        function = getattr(method, "__func__", getattr(method, "fget", method))
        if not name.startswith("_") and inspect.isfunction(function):
            yield function


def test_there_is_something_public():
    assert {"compsgd.pack", "compsgd.VoteAggregator", "compsgd.comm.Ledger"} <= set(PUBLIC)
    assert {"compsgd.plots.Run", "compsgd.history.read_histories"} <= set(PUBLIC)


@each_public
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    previous = matplotlib.get_backend()
    matplotlib.use("Agg")
    try:
        results = run_examples(name)
    finally:
        matplotlib.use(previous)
    assert results.attempted > 0
    assert results.failed == 0


def run_examples(name):
    report = []
    runner = doctest.DocTestRunner(optionflags=OPTIONS, verbose=False)
    for test in doctest.DocTestFinder().find(PUBLIC[name], name, globs={}):
        runner.run(test, out=report.append)
    if runner.failures:
        print("".join(report))
    return doctest.TestResults(runner.failures, runner.tries)


@each_public
def test_there_is_an_example(name):
    docs = PUBLIC[name].__doc__ or ""
    assert has_part(docs, "Examples")
    assert ">>>" in docs.partition("Examples:")[2]


@each_public
def test_arguments_are_described(name):
    value = PUBLIC[name]
    init = own_init(value)
    parameters = [] if init is None else list(inspect.signature(init).parameters)
    if [one for one in parameters if one != "self"]:
        docs = docs_of(value)
        assert has_part(docs, "Args")
        assert "{settings}" not in docs


@pytest.mark.parametrize("name", [name for name in PUBLIC if hasattr(PUBLIC[name], "_fields")])
def test_fields_are_described(name):
    docs = PUBLIC[name].__doc__
    assert has_part(docs, "Attributes")
    for field in PUBLIC[name]._fields:
        assert field in docs.partition("Attributes:")[2]


@each_public
def test_errors_are_described(name):
    value = PUBLIC[name]
    init = own_init(value)
    if init is not None and raises(init):
        assert has_part(docs_of(value), "Raises")
    if inspect.isclass(value):
        lacking = [
            method.__qualname__
            for method in public_methods(value)
            if raises(method) and "Raises" not in (method.__doc__ or "")
        ]
        assert not lacking


@pytest.mark.parametrize("name", OF_MATHEMATICS)
def test_the_source_is_named(name):
    docs = OF_MATHEMATICS[name].__doc__ or ""
    assert has_part(docs, "Source")
    assert re.search(r"design, sections? \d|\b(19|20)\d\d\b", docs.partition("Source:")[2])


def docstrings_of(path):
    """(name, docstring) of every module, class and function in a file."""
    kinds = ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, kinds):
            yield getattr(node, "name", path.stem), ast.get_docstring(node) or ""


@pytest.mark.parametrize("room", ["compsgd", "comm", "plots", "workers"])
def test_no_docstring_sends_its_reader_elsewhere_for_arguments(room):
    vague = re.compile(
        r"\bas for\s+[\w.`]+|Args(, Raises)?: as\b|\b[Aa]rguments( and errors)? as\b"
    )
    folder = ROOT / room
    paths = [path for path in folder.rglob("*.py") if path.resolve().is_relative_to(folder)]
    assert paths
    found = [
        f"{path.relative_to(ROOT)}: {name}: {vague.search(docs).group()}"
        for path in paths
        for name, docs in docstrings_of(path)
        if not name.startswith("_") and vague.search(docs)
    ]
    assert not found
