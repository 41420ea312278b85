"""Pages that show results in a browser: each is one HTML file that needs no other, and asks for nothing."""

from otad_ray.pages.cells import fact_table, number_cell, share_cell, tabulate_settings, text_cell
from otad_ray.pages.defense_tables import tabulate_attacks, tabulate_errors, tabulate_flags
from otad_ray.pages.entry import Entry, read_entry, read_sweep
from otad_ray.pages.layout import Bar, Cell, Page, Picture, Plot, Section, Table
from otad_ray.pages.leaderboard import make_leaderboard, read_entries, read_sweeps, write_entries
from otad_ray.pages.plots import radius_plot, relaxation_plot, robustness_plot
from otad_ray.pages.render import REPORT, has_plotly, render_page, write_page
from otad_ray.pages.standing import Standing, StandingAt, rank_defenses, read_standing

__all__ = [
    "REPORT",
    "Bar",
    "Cell",
    "Entry",
    "Page",
    "Picture",
    "Plot",
    "Section",
    "Standing",
    "StandingAt",
    "Table",
    "fact_table",
    "has_plotly",
    "make_leaderboard",
    "number_cell",
    "radius_plot",
    "rank_defenses",
    "read_entries",
    "read_entry",
    "read_standing",
    "read_sweep",
    "read_sweeps",
    "relaxation_plot",
    "render_page",
    "robustness_plot",
    "share_cell",
    "tabulate_attacks",
    "tabulate_errors",
    "tabulate_flags",
    "tabulate_settings",
    "text_cell",
    "write_entries",
    "write_page",
]
