"""How rows get computed: tasks, shards and the backends that run them. Beside `cluster`, the only package with Ray."""
