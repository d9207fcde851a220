#!/usr/bin/env bash
# What tpu_vm.sh does on each host of a TPU slice, in the checkout that it copied there.
#
# usage: tpu_host.sh install [NFS_HOST:/SHARE DIR]   makes .venv beside launch/, mounts the share
#        tpu_host.sh run STAGE [flags of relink]     ends what an earlier try left behind, runs the command, prints its exit code
#        tpu_host.sh stop                            asks a running command to stop
set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
. "$HERE/words.sh"
ROOT="$(cd "$HERE/../.." && pwd)"
RUNNING="$ROOT/running.pid"
GRACE=120 # seconds from asking a command to killing it

install_relink() {
    local pip=(python3 -m pip install --quiet --user)
    export PATH="$HOME/.local/bin:$PATH"
    if ! command -v uv >/dev/null; then "${pip[@]}" uv || "${pip[@]}" --break-system-packages uv; fi # Python of the image may be too old; uv brings one
    cd "$ROOT"
    if [ ! -x .venv/bin/python ]; then uv venv --quiet --python 3.12 .venv; fi
    uv pip install --quiet --python .venv/bin/python -c constraints/py312.txt -e '.[tpu]'
}

mount_share() {
    if ! command -v mount.nfs >/dev/null; then sudo apt-get -qq update && sudo apt-get -qq install -y nfs-common; fi
    sudo mkdir -p "$2"
    # lookupcache=positive: a file that another host has just written is seen at once
    if ! mountpoint -q "$2"; then sudo mount -t nfs -o rw,hard,lookupcache=positive "$1" "$2"; fi
    if [ ! -w "$2" ]; then sudo chown "$(id -u):$(id -g)" "$2"; fi
}

end_earlier() {
    local pid waited=0
    pid="$(cat "$RUNNING" 2>/dev/null || true)"
    if [ -z "$pid" ] || ! kill -TERM "$pid" 2>/dev/null; then return 0; fi
    while [ "$waited" -lt "$GRACE" ] && kill -0 "$pid" 2>/dev/null; do
        sleep 1
        waited=$((waited + 1))
    done
    kill -KILL "$pid" 2>/dev/null || true
}

case "${1:-}" in
--help | -h) show_help "$0" ;;
install)
    install_relink
    if [ -n "${2:-}" ]; then mount_share "$2" "$3"; fi
    ;;
run)
    shift
    take_words "$@"
    enter_environment "$HERE"
    end_earlier
    relink "${WORDS[@]}" &
    echo $! >"$RUNNING"
    wait $! || code=$?
    rm -f "$RUNNING"
    echo "relink exit code: $code"
    ;;
stop) kill -TERM "$(cat "$RUNNING")" ;;
*) refuse "word missing: expected install, run or stop" ;;
esac
