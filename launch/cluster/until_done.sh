#!/usr/bin/env bash
# Runs a command until it is done, by the exit codes of relink:
#   0, 2, 65        final: done, wrong command, bad data
#   75              stopped on request: runs it again, and it goes on from what was finished
#   anything else   a fault (70 internal or watchdog, 74 store, 134 a peer died, 137 killed): at most RETRIES times more
# SIGTERM, SIGHUP and Ctrl-C are passed on as SIGTERM, after which nothing is run again and the exit code is 75.
#
# usage: until_done.sh [flags] COMMAND [ARGUMENT ...]
#   --retries=N       tries after faults, all together (default 3)
#   --pause=SECONDS   before the first of them; the second waits twice as long (default 10)
#   --stopped=leave   exits 75 where the command does, instead of running it again
#   --until=EPOCH     after this time, in seconds since 1970, exits 75 instead of trying once more
# example: until_done.sh relink audit --workdir=out
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/words.sh"

retries=3 pause=10 stopped=again until=0
while [ $# -gt 0 ]; do
    case "$1" in
    --help | -h) show_help "$0" ;;
    --retries=*) retries="${1#*=}" ;;
    --pause=*) pause="${1#*=}" ;;
    --until=*) until="${1#*=}" ;;
    --stopped=again | --stopped=leave) stopped="${1#*=}" ;;
    -*) refuse "unknown flag '$1': expected one that --help lists" ;;
    *) break ;;
    esac
    shift
done
whole retries "$retries"
whole pause "$pause"
whole until "$until"
if [ $# = 0 ]; then refuse "command missing: expected COMMAND and its arguments"; fi

heed_signals
say() { echo "until_done.sh: $1" >&2; }

faults=0
while :; do
    attend "$@"
    case "$code" in
    0 | 2 | 65 | 126 | 127) exit "$code" ;;
    75 | 129 | 130 | 143)
        if [ "$signals" -gt 0 ] || [ "$stopped" = leave ]; then exit 75; fi
        say "stopped ($code), runs it again"
        ;;
    *)
        faults=$((faults + 1))
        if [ "$signals" -gt 0 ]; then exit 75; fi
        if [ "$faults" -gt "$retries" ]; then
            say "fault ($code), and no try left of $retries"
            exit "$code"
        fi
        say "fault ($code), try $faults of $retries in $((pause * faults)) s"
        sleep $((pause * faults)) || true
        ;;
    esac
    if [ "$signals" -gt 0 ] || { [ "$until" -gt 0 ] && [ "$(date +%s)" -ge "$until" ]; }; then exit 75; fi
done
