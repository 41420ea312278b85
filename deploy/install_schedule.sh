#!/usr/bin/env bash
# Put the night into this user's crontab, in place of an earlier line for it.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
. "$here/cluster.env"
line="${OTAD_NIGHTLY_AT:-17 2 * * *} bash $here/nightly.sh"
{ crontab -l 2>/dev/null | grep -v "$here/nightly.sh" || true; echo "$line"; } | crontab -
