#!/usr/bin/env bash
# Runs a relink command on all GPUs of one machine: one process sees them all, and needs no cluster flags. Runs again by until_done.sh.
#
# usage: multi_gpu.sh [flags] STAGE [flags of relink]
#   --gpus=N          GPUs that must be there (default: those of CUDA_VISIBLE_DEVICES, else those that nvidia-smi lists)
#   --retries=N       tries after faults (default 3)
# example: multi_gpu.sh audit --workdir=out
set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
. "$HERE/words.sh"

gpus="" retries=3
while [ $# -gt 0 ]; do
    case "$1" in
    --help | -h) show_help "$0" ;;
    --gpus=*) gpus="${1#*=}" ;;
    --retries=*) retries="${1#*=}" ;;
    *) break ;;
    esac
    shift
done
take_words "$@"
enter_environment "$HERE"
if [ -z "$gpus" ] && [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
    gpus="$(($(printf '%s' "$CUDA_VISIBLE_DEVICES" | tr -cd ',' | wc -c) + 1))"
elif [ -z "$gpus" ]; then
    gpus="$(nvidia-smi -L | grep -c '^GPU ')" || refuse "GPUs missing: expected nvidia-smi to list some, or --gpus=N"
fi
whole gpus "$gpus"
add expect_devices "$gpus"
exec "$HERE/until_done.sh" "--retries=$retries" relink "${WORDS[@]}"
