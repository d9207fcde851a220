"""What the package may never do, read from its syntax trees: unpickle, evaluate, run a shell, extract an archive; with the few places that may and why."""

import ast
import os
import pathlib
import re
import subprocess
import sys

import pytest

import relink_jax
from relink_jax.cohort import record_shards

ROOT = pathlib.Path(relink_jax.__file__).resolve().parent.parent
ROOMS = ("relink_jax", "launch", "configs")
MODULES = ("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml", "code", "codeop", "pty", "imp")
CALLS = {
    **dict.fromkeys(("eval", "exec", "compile", "__import__", "breakpoint"), "evaluates"),
    **dict.fromkeys(("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "asyncio.create_subprocess_shell"), "runs a shell"),
    **dict.fromkeys(("tempfile.mktemp", "os.tempnam"), "names a file that another user may make first"),
    **dict.fromkeys(("runpy.run_path", "runpy.run_module", "importlib.import_module"), "runs a module by name"),
}
METHODS = {
    **dict.fromkeys(("extractall", "extract"), "extracts an archive"),
    **dict.fromkeys(("exec_module", "load_module"), "runs a file"),
    **dict.fromkeys(("from_pretrained",), "reads a checkpoint that may name code"),
    **dict.fromkeys(("unsafe_load", "full_load", "read_pickle", "to_pickle"), "unpickles"),
}
ALLOWED = {
    ("relink_jax/encoders/pickles.py", "imports pickle"): "subclasses Unpickler to read torch's names of tensors; whatever else a file names is not built",
    ("relink_jax/encoders/formats.py", "runs a pickle"): "only with --trust_pickle, by torch",
    ("relink_jax/cli.py", "runs a file"): "a Python config that the user named, or a shipped one",
    ("relink_jax/cli.py", "runs a module by name"): "of the stages in its own table",
    **{(f"relink_jax/stages/{name}.py", "runs a module by name"): "of the stages in their own table" for name in ("launching", "faults_child", "faults_scene")},
    ("relink_jax/stages/faults_input.py", "imports pickle"): "writes one, to see that it is refused",
    ("relink_jax/encoders/tokenize.py", "reads a checkpoint that may name code"): "a fixed class of transformers, local files only, no remote code",
}


def dotted(node):
    """Returns the dotted name of an expression, '' where it has none."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def true_of(call, name):
    """Whether a call's keyword is there and not literally False."""
    return any(one.arg == name and not (isinstance(one.value, ast.Constant) and one.value.value is False) for one in call.keywords)


def said_of(call):
    """Returns what is dangerous about a call, one phrase each."""
    name = dotted(call.func)
    last = name.rpartition(".")[2] or (call.func.attr if isinstance(call.func, ast.Attribute) else "")
    if name in CALLS:
        yield CALLS[name]
    if isinstance(call.func, ast.Attribute) and last in METHODS:
        yield METHODS[last]
    if true_of(call, "shell"):
        yield "runs a shell"
    if true_of(call, "allow_pickle"):
        yield "unpickles"
    if true_of(call, "trust_remote_code"):
        yield "runs code of a checkpoint"
    literal = {one.arg: getattr(one.value, "value", None) for one in call.keywords}
    if name in ("torch.load", "torch.jit.load") and literal.get("weights_only") is not True:
        yield "runs a pickle"
    if name in ("pickle.load", "pickle.loads", "pickle.Unpickler"):
        yield "unpickles"


NAMES = "|".join(name.rpartition(".")[2] for name in (*CALLS, *METHODS, "torch.load") if name != "compile")
WORDS = re.compile(rf"(?<![.\w])compile\(|\b(?:{NAMES})\(|(?:import|from) [^\n]*\b(?:{'|'.join(MODULES)})\b|shell=|allow_pickle|trust_remote_code|Unpickler")


def dangers(root, rooms=ROOMS):
    """Returns {(file, phrase)} of every dangerous thing below a root."""
    found = set()
    for path in sorted(path for room in rooms for path in (root / room).rglob("*.py")):
        name = path.relative_to(root).as_posix()
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)) if WORDS.search(text) else ():  # parsing takes long
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                found |= {(name, f"imports {module}") for module in modules if module.split(".")[0] in MODULES}
            elif isinstance(node, ast.Call):
                found |= {(name, phrase) for phrase in said_of(node)}
    return found


def test_the_package_does_none_of_it_but_where_there_is_a_reason():
    assert dangers(ROOT) == set(ALLOWED)


@pytest.mark.parametrize(
    "line",
    [
        *("import pickle", "from joblib import load", "import cloudpickle as c", "eval('1')", "exec(text)", "compile(a, b, 'exec')", "__import__('os')"),
        *("np.load(path, allow_pickle=True)", "np.load(path, allow_pickle=given)", "torch.load(path)", "torch.load(path, weights_only=False)"),
        *("subprocess.run(words, shell=True)", "os.system(words)", "tarfile.open(path).extractall()", "archive.extract(name)", "tempfile.mktemp()"),
        *("AutoModel.from_pretrained(path, trust_remote_code=True)", "pandas.read_pickle(path)", "yaml.full_load(text)", "importlib.import_module(name)"),
    ],
)
def test_a_danger_is_seen(tmp_path, line):
    (tmp_path / "relink_jax").mkdir()
    (tmp_path / "relink_jax" / "x.py").write_text(f"def f():\n    return 0\n\n{line}\n")
    assert dangers(tmp_path)


def test_templates_leave_only_the_style_sheet_unescaped():
    texts = {path.name: path.read_text() for path in (ROOT / "relink_jax" / "report" / "templates").iterdir()}
    opened = {name: re.findall(r"(\w+)\s*\|\s*safe\b|(autoescape)", text) for name, text in texts.items()}
    assert {name: found for name, found in opened.items() if found} == {"parts.html.j2": [("style", "")]}
    package = "".join(path.read_text() for path in (ROOT / "relink_jax").rglob("*.py"))
    assert "Markup" not in package
    assert package.count("autoescape") == package.count("autoescape=True") == 1


def test_workers_import_nothing_from_the_current_directory(tmp_path):
    for name in ("multiprocessing", "pickle", "socket"):
        (tmp_path / f"{name}.py").write_text("open('shadowed', 'w')\n")
    start = [sys.executable, "-c", "from multiprocessing.spawn import spawn_main"]
    before = dict(os.environ)
    with record_shards._safe_path():
        subprocess.run(start, cwd=tmp_path, check=True)
    assert dict(os.environ) == before
    assert not (tmp_path / "shadowed").exists()
    subprocess.run(start, cwd=tmp_path, capture_output=True)
    assert (tmp_path / "shadowed").exists()  # which is what the guard is for
