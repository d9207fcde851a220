#!/usr/bin/env bash
# The default tests, from nothing. Usage: ./launch/test.sh [pytest arguments], e.g. -k oracle or -m slow
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
prepare_environment "test"
cd "$ROOT"
exec "$VENV/bin/python" -m pytest -n 2 "$@"
