"""Plots as SVG text: sized for the page, coloured by its style sheet, legible without a script."""
