#!/usr/bin/env bash
# Runs a relink command by Open MPI, one process per GPU, and again by until_done.sh. Open MPI up to 4 says itself where process 0 is
# (--cluster=ompi); from 5 on its launcher is PRRTE, which does not, so that the package mpi4py is asked and must be installed (--cluster=mpi4py).
#
# usage: mpirun.sh --processes=N [flags] STAGE [flags of relink]
#   --processes=N     processes in all
#   --per_node=N      processes on each host: its GPUs (default: as the hosts' slots say)
#   --hostfile=FILE   hosts with their slots (default: this host, or those of the scheduler)
#   --mpi="..."       further flags of mpirun, such as --mpi="--mca btl_tcp_if_include eth0"
#   --retries=N       tries after faults (default 3)
# The environment and the workdir must be the same on all hosts. mpirun kills its processes about a second after its own SIGTERM: they stop
# where they are, and the next try goes on from what was finished.
# example: mpirun.sh --processes=16 --per_node=8 --hostfile=hosts audit --expect_devices=16 --workdir=/shared/out
set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
. "$HERE/words.sh"

processes="" per_node="" hostfile="" mpi="" retries=3
while [ $# -gt 0 ]; do
    case "$1" in
    --help | -h) show_help "$0" ;;
    --processes=*) processes="${1#*=}" ;;
    --per_node=*) per_node="${1#*=}" ;;
    --hostfile=*) hostfile="${1#*=}" ;;
    --mpi=*) mpi="${1#*=}" ;;
    --retries=*) retries="${1#*=}" ;;
    *) break ;;
    esac
    shift
done
whole processes "$processes"
take_words "$@"
enter_environment "$HERE"

version="$(mpirun --version 2>&1 || true)"
case "$version" in
*"(Open MPI) "[1-4].*) cluster=ompi ;;
*"(Open MPI) "*) cluster=mpi4py ;;
*) refuse "launcher mpirun on the PATH: expected Open MPI's, found '${version%%$'\n'*}'" ;;
esac
add cluster "$cluster"
add expect_processes "$processes"

launcher=(mpirun -np "$processes" --bind-to none -x PATH -x HF_HUB_OFFLINE)
if [ -n "$hostfile" ]; then launcher+=(--hostfile "$hostfile"); fi
if [ -n "$per_node" ]; then launcher+=(--map-by "ppr:$per_node:node"); fi
if [ -n "$mpi" ]; then
    read -r -a further <<<"$mpi"
    launcher+=("${further[@]}")
fi
exec "$HERE/until_done.sh" "--retries=$retries" "${launcher[@]}" env "${PROXIES[@]/#/-u}" relink "${WORDS[@]}"
