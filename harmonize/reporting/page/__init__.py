"""A study as one HTML page that needs no network: tables, figures drawn as inline SVG, and what was run."""
