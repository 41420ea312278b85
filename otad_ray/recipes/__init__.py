"""What a preset is made of: where each artifact lies, what it depends on, and how a missing one is made."""
