#!/usr/bin/env bash
# Sourced by the scripts beside it: their help, the words of the relink command they run, its environment, and how a command is waited for.

set -euo pipefail
PROXIES=(http_proxy https_proxy all_proxy grpc_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY GRPC_PROXY)

# Prints the comment that a script opens with, and ends it.
show_help() {
    sed -n '2,/^[^#]/{s/^#$//p;s/^# //p;}' "$1"
    exit 0
}

refuse() {
    echo "$(basename "$0"): error: $1" >&2
    exit 2
}

# Checks that a flag's value is a whole number.
whole() {
    case "$2" in '' | *[!0-9]*) refuse "number in flag --$1: expected a whole number, found '$2'" ;; esac
}

# Keeps the words of a relink command, with or without `relink` before them, in WORDS.
take_words() {
    if [ "${1:-}" = relink ]; then shift; fi
    case "${1:-}" in
    '') refuse "words of a relink command missing: expected STAGE and its flags, such as: audit --workdir=DIR" ;;
    -*) refuse "unknown flag '$1' before the relink command: expected one that --help lists" ;;
    esac
    WORDS=("$@")
}

# Adds --NAME=VALUE to WORDS where they do not hold that flag already.
add() {
    local word
    for word in "${WORDS[@]}"; do
        case "$word" in "--$1" | "--$1="*) return 0 ;; esac
    done
    WORDS+=("--$1=$2")
}

# Puts the environment of RELINK_VENV, else of the checkout, on the path; a proxy would stand between processes that talk to each other.
enter_environment() {
    local venv="${RELINK_VENV:-$1/../../.venv}"
    if [ -x "$venv/bin/relink" ]; then
        venv="$(cd "$venv" && pwd)"
        export PATH="$venv/bin:$PATH"
    fi
    if ! command -v relink >/dev/null; then refuse "command relink missing on the PATH: expected an environment with relink_jax, named by RELINK_VENV"; fi
    unset "${PROXIES[@]}"
    export HF_HUB_OFFLINE=1
}

signals=0 child="" code=0

# Ends the command that `attend` waits for; a script may define another way.
end_child() { kill -TERM "$child" 2>/dev/null || true; }

heed_signals() { trap 'signals=$((signals + 1)); if [ -n "$child" ]; then end_child; fi' TERM HUP INT; }

# Runs a command, keeps its exit code in `code`, and meanwhile answers signals with `end_child`, which bash would else put off.
attend() {
    local before
    "$@" &
    child=$!
    while :; do
        code=0 before=$signals
        wait "$child" || code=$?
        if [ "$before" = "$signals" ] || [ "$code" -le 128 ]; then break; fi # else a signal ended the wait, not the command
    done
    child=""
}
