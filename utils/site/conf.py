"""How Sphinx makes the site: https://www.sphinx-doc.org/en/master/usage/configuration.html, furo and myst-nb."""

import re

project = "Bring your own algorithm to Amazon SageMaker"
html_title = "Bring your own algorithm"
extensions = ["myst_nb"]
html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_js_files = [("site.js", {"defer": "defer"})]
html_favicon = "static/favicon.svg"
# No links to a repository that a reader may not have; blue as in the cells' edge.
html_theme_options = {
    "top_of_page_buttons": [],
    "light_css_variables": {"color-brand-primary": "#0a5a9c", "color-brand-content": "#0a5a9c"},
    "dark_css_variables": {"color-brand-primary": "#7cbcf2", "color-brand-content": "#7cbcf2"},
}
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False
# Read on light and on dark: both schemes' contrast was looked at by axe-core.
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"

# The labs were executed by `make labs`.
nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js = {}
myst_heading_anchors = 4
myst_enable_extensions = []
smartquotes = False  # `--` begins an option
suppress_warnings = ["mystnb.unknown_mime_type", "misc.highlighting_failure"]


def setup(app):
    app.connect("html-page-context", _level_of_captions, priority=900)
    app.connect("html-page-context", _language)


def _language(app, page, template, context, doctree):
    """Say to a screen reader which language a page is in that is not English: es/… and labs/es/…"""
    if found := re.match(r"(?:labs/)?([a-z]{2})/", page):
        context["language"] = found[1]


def _level_of_captions(app, page, template, context, doctree):
    """Say of the sidebar's captions which level of heading they are: Sphinx says only that they are headings."""
    tree = context.get("furo_navigation_tree", "")
    context["furo_navigation_tree"] = tree.replace('role="heading"', 'role="heading" aria-level="2"')
