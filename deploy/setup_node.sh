#!/usr/bin/env bash
# Set up a node: the shared file system, and exactly the versions of constraints.txt. Argument: cpu or cuda.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
. "$here/cluster.env"
build="${1:?cpu or cuda}"
mount_point=/mnt/otad

# Ray writes and copies the token readable by all.
chmod 600 "$HOME/.ray/auth_token" "$here/cluster.env"

sudo apt-get update -qq
sudo DEBIAN_FRONTEND=noninteractive apt-get install -y -qq nfs-common python3-venv cron

sudo mkdir -p "$mount_point"
if ! mountpoint -q "$mount_point"; then
    # hard: a file system that is away for a while stops a job, and does not make it fail.
    sudo mount -t nfs4 -o nfsvers=4.1,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,noresvport,_netdev \
        "$OTAD_FILE_SYSTEM:/" "$mount_point"
fi
sudo install -d -o "$USER" "$OTAD_STORAGE"

[ -x "$HOME/venv/bin/python" ] || python3 -m venv "$HOME/venv"
torch="$(grep '^torch==' "$here/../constraints.txt")"
if [ "$build" = cpu ]; then
    # PyPI's build brings several GB of CUDA.
    "$HOME/venv/bin/pip" install --quiet --index-url https://download.pytorch.org/whl/cpu "$torch"
else
    "$HOME/venv/bin/pip" install --quiet "$torch"
fi
# boto3: with it the head starts nodes.
"$HOME/venv/bin/pip" install --quiet --constraint "$here/../constraints.txt" --editable "$here/..[aws]"
