"""Who may import whom, read from the syntax trees; the rules are the design's."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parent.parent / "relink_jax"
COMMON = {"errors"}
ALLOWED = {
    "settings": set(),
    "cohort_config": {"settings"},
    "config": {"settings", "cohort_config"},
    "errors": set(),
    "store": set(),
    "runtime": set(),
    "cohort": {"store", "config"},
    "encoders": {"cohort", "store", "runtime"},
    "heads": {"store"},
    "retrieval": {"runtime", "store"},
    "audit": {"retrieval", "runtime", "store"},
    "utility": {"retrieval", "store"},
    "privacy": {"heads", "store", "runtime"},
    "report": {"store"},
    "api": {"audit", "retrieval", "runtime", "store"},
    "study": {"config"},
    "cli": {"config", "stages"},
    "stages": {"config", "cohort_config", "store", "runtime", "cohort", "encoders", "heads", "retrieval", "audit", "privacy", "utility", "report", "api"},
}
ONLY_IN = {
    "flax": ("encoders/",),
    "transformers": ("encoders/tokenize.py", "encoders/peers.py"),
    "torch": ("encoders/formats.py", "encoders/peers.py", "retrieval/peers.py", "privacy/peers.py"),
    "faiss": ("retrieval/peers.py",),
    "sentencepiece": ("encoders/tokenize.py",),
    "dp_accounting": ("privacy/accounting/",),
    "orbax": ("store/checkpoints.py",),
    "matplotlib": ("report/",),
    "tensorflow_datasets": ("cohort/",),
    "apache_beam": ("cohort/beam.py",),
    "pydicom": ("cohort/dicom.py", "cohort/greyscale.py"),
}
NO_JAX = (
    *("config.py", "cohort_config.py", "settings.py", "errors.py", "cli.py", "cohort/"),
    *("privacy/accounting/", "privacy/ledger.py", "privacy/ledger_chain.py", "privacy/ledger_rules.py", "privacy/statement.py", "audit/metrics.py"),
    *(
        f"audit/{name}.py"
        for name in (
            "risk",
            "groups",
            "regression",
            "anonymity",
            "right_patient",
            "attributes",
            "multiplicity",
            "selective",
            "open_set",
            "bits",
            "candidate_side",
            "bands",
            "order",
        )
    ),
    *("retrieval/expectation.py", "retrieval/pool_law.py", "retrieval/right_patient.py", "retrieval/tiered.py"),
)


def imports(path: pathlib.Path) -> list[tuple[str, bool]]:
    """Returns (dotted module, at top level) of every import; `from relink_jax import x` counts as relink_jax.x."""
    tree = ast.parse(path.read_text())
    top = set(map(id, tree.body))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            deep = node.module == "relink_jax" or node.module.startswith("relink_jax.")
            found += [(f"{node.module}.{alias.name}" if deep else node.module, id(node) in top) for alias in node.names]
    return found


def breaches(root: pathlib.Path) -> list[str]:
    """Returns one line per broken rule under `root`."""
    wrong = []
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        room = name.split("/")[0].removesuffix(".py")
        for module, at_top in imports(path):
            parts = module.split(".")
            if parts[0] == "relink_jax" and len(parts) > 1 and room in ALLOWED:
                target = parts[1]
                if target in {*ALLOWED, "launch", "configs"} and target not in ALLOWED[room] | COMMON | {room}:
                    wrong.append(f"{name} imports {module}")
            if parts[0] in ONLY_IN and not name.startswith(ONLY_IN[parts[0]]):
                wrong.append(f"{name} imports {parts[0]}")
            if parts[0] in ("transformers", "torch") and at_top:
                wrong.append(f"{name} imports {parts[0]} at the top")
            if parts[0] == "jax" and name.startswith(NO_JAX):
                wrong.append(f"{name} imports jax")
            if module.startswith("jax._src"):
                wrong.append(f"{name} imports a private jax module")
            if parts[0] == "tensorflow":
                wrong.append(f"{name} imports tensorflow")
    return wrong


def test_rules_hold():
    assert breaches(PACKAGE) == []


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("audit/x.py", "from relink_jax.privacy import ledger"),
        ("privacy/x.py", "from relink_jax import audit"),
        ("store/x.py", "from relink_jax.cohort import schema"),
        ("retrieval/x.py", "import flax.linen as nn"),
        ("privacy/x.py", "import dp_accounting"),
        ("encoders/formats.py", "import torch"),
        ("cohort/x.py", "import jax"),
        ("report/x.py", "from jax._src import core"),
    ],
)
def test_a_breach_is_seen(tmp_path, name, line):
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text(line + "\n")
    assert len(breaches(tmp_path)) == 1


def test_no_long_files_and_no_utils():
    root = PACKAGE.parent
    files = [path for folder in ("relink_jax", "configs", "launch", "tests") for path in (root / folder).rglob("*.py")]
    assert [path.name for path in files if len(path.read_text().splitlines()) > 350] == []
    assert [path.name for path in files if path.stem == "utils"] == []
