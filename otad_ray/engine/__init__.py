"""How rows get computed: tasks, shards and the backends that run them. Beside `cluster`, the only package with Ray."""

import os

# Under `uv run`, Ray would build the environment of every worker anew, by the same command, and wait for that without
# a word. Ours have the packages of the job. Ray reads this when it is imported.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
