"""The attack sweep: its plan, its tasks, and its report."""
