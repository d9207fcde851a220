#!/usr/bin/env bash
# Runs a relink command on every host of a Cloud TPU slice, from a machine with gcloud: asks for the slice as a queued resource, waits until it is
# there, installs this checkout on all hosts, runs the same command on all of them, and runs it again after stops, faults and preemption.
#
# usage: tpu_vm.sh --name=NAME --zone=ZONE --accelerator_type=TYPE --runtime_version=VERSION [flags] STAGE [flags of relink]
#   --name=NAME              of the queued resource and its TPU VM; one that exists is used
#   --zone, --project        where (default project: gcloud's)
#   --accelerator_type=TYPE  such as v5litepod-16; 'gcloud compute tpus accelerator-types list --zone=ZONE' lists them
#   --runtime_version=NAME   such as v2-alpha-tpuv5-lite; 'gcloud compute tpus versions list --zone=ZONE' lists them
#   --spot                   capacity that may be taken away: the slice is asked for again then
#   --create="..."           further flags of 'queued-resources create', such as --create="--reserved --internal-ips"
#   --nfs=HOST:/SHARE        mounted on every host at --mount: the file system that the workdir and the data lie on
#   --mount=DIR              (default /mnt/relink)
#   --retries=N              tries after faults (default 3); stops and preemption do not count
#   --poll=SECONDS           between looks at the queue (default 30)
#   --delete                 deletes the queued resource and its VM at the end, however that is; without it they stay, and cost
#   --dry_run                prints the gcloud commands and runs none
# example: tpu_vm.sh --name=relink --zone=us-west4-a --accelerator_type=v5litepod-16 --runtime_version=v2-alpha-tpuv5-lite \
#              --nfs=10.0.0.2:/share --delete audit --expect_devices=16 --workdir=/mnt/relink/out
# The workdir must be on a file system with file locks, atomic renames and many writers, as Filestore (NFS) has. Cloud Storage FUSE has no locks,
# renames by copying, and lets the last of two writers win: good for archives that are only read, not for a workdir.
set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
. "$HERE/words.sh"
ROOT="$(cd "$HERE/../.." && pwd)"
given=("$@")
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

name="" zone="" project="" type="" version="" spot="" create="" nfs="" mount=/mnt/relink retries=3 poll=30 delete="" dry="" once=""
while [ $# -gt 0 ]; do
    case "$1" in
    --help | -h) show_help "$0" ;;
    --name=*) name="${1#*=}" ;;
    --zone=*) zone="${1#*=}" ;;
    --project=*) project="${1#*=}" ;;
    --accelerator_type=*) type="${1#*=}" ;;
    --runtime_version=*) version="${1#*=}" ;;
    --spot) spot=1 ;;
    --create=*) create="${1#*=}" ;;
    --nfs=*) nfs="${1#*=}" ;;
    --mount=*) mount="${1#*=}" ;;
    --retries=*) retries="${1#*=}" ;;
    --poll=*) poll="${1#*=}" ;;
    --delete) delete=1 ;;
    --dry_run) dry=1 ;;
    --once) once=1 ;; # this script's own: one try
    *) break ;;
    esac
    shift
done
for flag in "name=$name" "zone=$zone" "accelerator_type=$type" "runtime_version=$version"; do
    if [ -z "${flag#*=}" ]; then refuse "flag --${flag%%=*} missing: expected a value"; fi
done
whole poll "$poll"
take_words "$@"
if [ ! -f "$ROOT/setup.py" ]; then refuse "checkout missing: expected this script in launch/cluster of one, whose files go to the hosts"; fi
where=("--zone=$zone")
if [ -n "$project" ]; then where+=("--project=$project"); fi

cloud() {
    if [ -n "$dry" ]; then
        printf 'gcloud'
        printf ' %q' "$@"
        echo
    else
        gcloud "$@"
    fi
}
on_all() { cloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=all --quiet "--command=$1"; }

state() { gcloud compute tpus queued-resources describe "$name" "${where[@]}" '--format=value(state.state)' 2>/dev/null || echo MISSING; }

ask_for_slice() {
    local flags=("--node-id=$name" "--accelerator-type=$type" "--runtime-version=$version") further
    if [ -n "$spot" ]; then flags+=(--spot); fi
    if [ -n "$create" ]; then
        read -r -a further <<<"$create"
        flags+=("${further[@]}")
    fi
    cloud compute tpus queued-resources create "$name" "${where[@]}" "${flags[@]}"
}

delete_slice() { cloud compute tpus queued-resources delete "$name" "${where[@]}" --force --quiet; }

await_slice() {
    local found last=""
    if [ -n "$dry" ]; then
        ask_for_slice
        return 0
    fi
    while :; do
        if [ "$signals" -gt 0 ]; then exit 75; fi
        found="$(state)"
        if [ "$found" != "$last" ]; then echo "tpu_vm.sh: queued resource $name: $found" >&2; fi
        last="$found"
        case "$found" in
        ACTIVE) return 0 ;;
        MISSING)
            ask_for_slice
            sleep "$poll"
            ;;
        FAILED | SUSPENDED)
            delete_slice
            ask_for_slice
            sleep "$poll"
            ;;
        *) sleep "$poll" ;;
        esac
    done
}

install_everywhere() {
    local steps="mkdir -p relink && tar -xzf relink.tgz -C relink && relink/launch/cluster/tpu_host.sh install"
    (cd "$ROOT" && tar -czf "$work/relink.tgz" --exclude=__pycache__ setup.py pyproject.toml README.md LICENSE relink_jax configs launch constraints)
    cloud compute tpus tpu-vm scp "$work/relink.tgz" "$name:relink.tgz" "${where[@]}" --worker=all --quiet
    if [ -n "$nfs" ]; then steps+="$(printf ' %q' "$nfs" "$mount")"; fi
    on_all "$steps"
}

# Each host says its exit code itself, since gcloud does not hand on those of several hosts.
run_everywhere() { on_all "relink/launch/cluster/tpu_host.sh run$(printf ' %q' "${WORDS[@]}")" 2>&1 | tee "$work/said"; }

# Makes one exit code of those that the hosts said: 2 and 65 are final wherever they come from; a host that says none is lost.
outcome() {
    local codes number worst=0 count=0
    codes="$(sed -n 's/.*relink exit code: \([0-9][0-9]*\).*/\1/p' "$work/said")"
    for number in $codes; do
        count=$((count + 1))
        case "$number" in
        2 | 65) return "$number" ;;
        0) ;;
        75) if [ "$worst" = 0 ]; then worst=75; fi ;;
        *) if [ "$worst" = 75 ] || [ "$number" -gt "$worst" ]; then worst="$number"; fi ;;
        esac
    done
    if [ "$count" -lt "$hosts" ] && [ "$(state)" != ACTIVE ]; then return 75; fi # preempted
    if [ "$count" -lt "$hosts" ] && [ "$worst" = 0 ]; then return 1; fi
    return "$worst"
}

try_once() {
    await_slice
    install_everywhere
    hosts=HOSTS
    if [ -z "$dry" ]; then hosts="$(gcloud compute tpus tpu-vm describe "$name" "${where[@]}" '--format=value(networkEndpoints.len())')"; fi
    add cluster tpu
    add expect_processes "$hosts"
    if [ -n "$dry" ]; then
        run_everywhere
        return 0
    fi
    if [ "$signals" -gt 0 ]; then return 75; fi
    # shellcheck disable=SC2329 # heed_signals calls it
    end_child() { on_all "relink/launch/cluster/tpu_host.sh stop" >/dev/null 2>&1 || true; }
    attend run_everywhere
    code=0
    outcome || code=$?
    if [ "$signals" -gt 0 ]; then code=75; fi
    return "$code"
}

if [ -n "$dry" ]; then
    try_once
elif [ -n "$once" ]; then
    heed_signals
    try_once
    exit 0
else
    heed_signals
    attend "$HERE/until_done.sh" "--retries=$retries" "$0" --once "${given[@]}"
fi
if [ -n "$delete" ]; then delete_slice; fi
exit "$code"
