"""A record for people: tables on a terminal, Markdown, and one HTML file with plots."""

from .render import print_report, render_html, render_markdown

__all__ = ["print_report", "render_html", "render_markdown"]
