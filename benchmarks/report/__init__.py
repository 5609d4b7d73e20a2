"""A record for people: tables on a terminal, Markdown, and one HTML file with plots."""

from ifmmin.benchmarks.report.html import render_html
from ifmmin.benchmarks.report.markdown import render_markdown
from ifmmin.benchmarks.report.text import print_report

__all__ = ["print_report", "render_html", "render_markdown"]
