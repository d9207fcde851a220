#!/usr/bin/env bash
# Sourced by demo.sh and test.sh: makes a virtual environment (with uv when present) and installs relink_jax with the
# pinned versions of constraints/. Usage: prepare_environment EXTRAS ("" or "test"); afterwards $VENV/bin/relink exists.
# RELINK_VENV names another place than .venv; RELINK_PYTHON another interpreter than python3, or
# the newest of python3.11 to python3.13 where python3 is none of them.

set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="${RELINK_VENV:-$ROOT/.venv}"

find_python() {
    local name needs="sys, ensurepip"
    if command -v uv >/dev/null 2>&1; then needs="sys"; fi
    for name in ${RELINK_PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if "$name" -c "import $needs; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))" 2>/dev/null; then
            command -v "$name"
            return 0
        fi
    done
    echo "relink_jax needs Python 3.11, 3.12 or 3.13 with venv on the PATH; found $(python3 --version 2>&1 || echo none)" >&2
    return 2
}

python_of_environment() {
    if [ -x "$VENV/bin/python" ]; then echo "$VENV/bin/python"; else find_python; fi
}

constraints_for() {
    echo "$ROOT/constraints/py$("$1" -c 'import sys; print(f"{sys.version_info[0]}{sys.version_info[1]}")').txt"
}

install_packages() {
    if command -v uv >/dev/null 2>&1; then
        uv pip install --quiet --python "$VENV/bin/python" "$@"
    else
        "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
    fi
}

make_venv() {
    if [ -x "$VENV/bin/python" ]; then return 0; fi
    if command -v uv >/dev/null 2>&1; then uv venv --quiet --python "$1" "$VENV"; else "$1" -m venv "$VENV"; fi
}

prepare_environment() {
    local extras="$1" python constraints stamp
    python="$(python_of_environment)"
    constraints="$(constraints_for "$python")"
    stamp="$VENV/.relink-${extras:-base}-$(cat "$ROOT/setup.py" "$constraints" | cksum | cut -d' ' -f1)"
    if [ -f "$stamp" ] && [ -x "$VENV/bin/relink" ]; then return 0; fi
    echo "Installing relink_jax${extras:+ with the $extras extra} (once) ..." >&2
    make_venv "$python"
    install_packages --constraint "$constraints" --editable "$ROOT${extras:+[$extras]}"
    touch "$stamp"
}
