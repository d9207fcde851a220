#!/usr/bin/env bash
# The main job on the embedded synthetic cohort, from nothing: environment, audit, mitigation, page.
# Usage: ./launch/demo.sh [flags of `relink demo`], e.g. --config=demo_small or --workdir=out/second
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
case " $* " in
*" --help "* | *" -h "*) set -- --help ;;
*" --workdir"*) ;;
*) set -- "--workdir=$ROOT/out/demo" "$@" ;;
esac
prepare_environment ""
exec "$VENV/bin/relink" demo "$@"
