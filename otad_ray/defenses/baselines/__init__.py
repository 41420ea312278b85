"""The defenses that OTAD is compared with, one file each."""
