# Sourced by everything that runs on a node: the environment of Ray, of drivers and actors, and of the schedule.
set -a
. "$HOME/otad/deploy/cluster.env"
set +a
export PATH="$HOME/venv/bin:$PATH"
# Requests without the token of ~/.ray/auth_token are refused by Ray's servers.
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH="$HOME/.ray/auth_token"
export RAY_USAGE_STATS_ENABLED=0
export MLFLOW_DISABLE_TELEMETRY=true
