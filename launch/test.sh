#!/usr/bin/env bash
# The default tests, from nothing. Usage: ./launch/test.sh [pytest arguments], e.g. -k oracle or -m slow
# ./launch/test.sh --parity [pytest arguments]: the tests against torch instead, in an environment of their own (RELINK_VENV, by default
# .venv-parity), since torch never enters the other one. torch comes first, from RELINK_TORCH_INDEX where that is set and else from the
# configured index; what cross-checks the oracles comes without dependencies, which would bring another torch. Where one of those cannot
# be installed, its tests are skipped with that reason.
set -euo pipefail
LAUNCH="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
TORCH="torch==2.13.0"
CROSS_CHECKS=(
    "torchvision==0.28.0 timm==1.0.31 open_clip_torch==3.3.0 ftfy regex wcwidth"
    "opencv-python-headless==5.0.0.93"
    "hi-ml-multimodal==0.2.2 pydicom SimpleITK scikit-image imageio lazy_loader tifffile"
)

prepare_parity() {
    local stamp index="${RELINK_TORCH_INDEX:-}" group python
    python="$(python_of_environment)"
    stamp="$VENV/.relink-parity-$(cat "${BASH_SOURCE[0]}" "$ROOT/setup.py" "$(constraints_for "$python")" | cksum | cut -d' ' -f1)"
    if [ -f "$stamp" ]; then return 0; fi
    if [ -x "$VENV/bin/python" ] && [ ! -f "$VENV/.relink-with-torch" ]; then
        echo "--parity needs an environment of its own, as it installs torch: expected RELINK_VENV to name a new one, found $VENV" >&2
        return 2
    fi
    make_venv "$python"
    touch "$VENV/.relink-with-torch"
    echo "Installing $TORCH (once) ..." >&2
    if [ -n "$index" ]; then install_packages --no-deps --index-url "$index" "$TORCH" 2>/dev/null || echo "not from $index; trying the configured index" >&2; fi
    install_packages "$TORCH"
    prepare_environment "test"
    for group in "${CROSS_CHECKS[@]}"; do
        # shellcheck disable=SC2086 # a group is a list
        install_packages --no-deps $group || echo "not installed: $group; their tests will be skipped" >&2
    done
    touch "$stamp"
}

if [ "${1:-}" = "--parity" ]; then
    shift
    RELINK_VENV="${RELINK_VENV:-$(dirname "$LAUNCH")/.venv-parity}"
    . "$LAUNCH/environment.sh"
    prepare_parity
    cd "$ROOT"
    HF_HUB_OFFLINE=1 exec "$VENV/bin/python" -m pytest -m parity tests/parity "$@"
fi
. "$LAUNCH/environment.sh"
prepare_environment "test"
cd "$ROOT"
exec "$VENV/bin/python" -m pytest -n 2 --dist loadfile "$@"
