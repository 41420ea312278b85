#!/bin/sh
# What the CronJob runs: create the RayJob and wait for its end, so that no second night starts beside it.
# Ends as the night did: 0 good, 2 a regression was found, 1 anything else.
set -eu
night="$(kubectl create -f "${1:-/night/rayjob.yaml}" -o jsonpath='{.metadata.name}')"
echo "created $night"
field() { kubectl get rayjob "$night" -o "jsonpath={.status.$1}" || true; }
while :; do
    job="$(field jobStatus)"
    deployment="$(field jobDeploymentStatus)"
    case "$job/$deployment" in
        SUCCEEDED/*) echo "good"; exit 0 ;;
        FAILED/* | STOPPED/* | */Failed) break ;;
    esac
    sleep "${POLL_SECONDS:-20}"
done
message="$(field message)"
echo "$message"
case "$message" in
    *"failed with exit code 2"[,.]*) echo "regression: see the lines REGRESSION of the driver's log"; exit 2 ;;
    *) echo "the night failed ($job/$deployment)"; exit 1 ;;
esac
