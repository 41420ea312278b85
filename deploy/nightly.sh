#!/usr/bin/env bash
# One night, as cron runs it: at most one at a time, a log of its own, and the exit code of the submitted driver:
# 0 good, 2 a regression was found, 75 another night still runs, anything else a failure.
#
# Environment (deploy/cluster.env, or the caller's): OTAD_STORAGE; OTAD_NIGHTLY_OPTIONS of nightly_sweep;
# OTAD_NIGHTLY_HOOK, a command that is run with the exit code and the log file unless the night was good;
# OTAD_NIGHTLY_KEEP_DAYS of logs (30); OTAD_NIGHTLY_LOGS (<storage>/nightly-logs); OTAD_SUBMIT, what submits.
set -uo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
# cron starts with next to no environment.
[ -f "$here/cluster.env" ] && . "$here/node_environment.sh"
export RAY_API_SERVER_ADDRESS="${RAY_API_SERVER_ADDRESS:-http://127.0.0.1:8265}"

logs="${OTAD_NIGHTLY_LOGS:-${OTAD_STORAGE:?is not set: fill in deploy/cluster.env}/nightly-logs}"
mkdir -p "$logs"
log="$logs/night-$(date -u +%Y%m%dT%H%M%SZ)-$$.log"

finish() {
    echo "$(date -u +%FT%TZ) exit code $1: $2" | tee -a "$log" >&2
    echo "$1 $(basename "$log") $2" >"$logs/last.$$" && mv "$logs/last.$$" "$logs/last"
    if [ "$1" -ne 0 ] && [ -n "${OTAD_NIGHTLY_HOOK:-}" ]; then
        $OTAD_NIGHTLY_HOOK "$1" "$log" >>"$log" 2>&1 9>&- || echo "the hook failed: $OTAD_NIGHTLY_HOOK" | tee -a "$log" >&2
    fi
    exit "$1"
}

# The lock is on this machine: locks of shared file systems outlive machines. It ends with the process, however that ends.
exec 9>"${OTAD_NIGHTLY_LOCK:-$HOME/.otad-nightly.lock}"
flock --nonblock 9 || finish 75 "another night still runs; this one is left out"

find "$logs" -name 'night-*.log' -mtime "+${OTAD_NIGHTLY_KEEP_DAYS:-30}" -delete

# Options are words: shell quotes are not read in them.
read -ra options <<<"${OTAD_NIGHTLY_OPTIONS:-}"
read -ra submit <<<"${OTAD_SUBMIT:-python $here/../jobs/submit.py}"
"${submit[@]}" nightly_sweep "${options[@]}" "$@" >>"$log" 2>&1 9>&-
code=$?
case "$code" in
    0) finish 0 "good" ;;
    2) finish 2 "regression: $(grep -c '^REGRESSION' "$log") found, the first: $(grep -m1 '^REGRESSION' "$log")" ;;
    *) finish "$code" "the night failed: $(grep -m1 -i 'error' "$log" || tail -n 1 "$log")" ;;
esac
