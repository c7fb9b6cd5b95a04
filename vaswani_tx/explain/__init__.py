"""The story of the Transformer from one's own model: one page that works offline, and figures for papers.

    from vaswani_tx import explain
    page = explain.page(model, tokenizer, "The cat drinks the milk because it is thirsty.")
    page.save("page.html")    # in a notebook, `page` as the last line of a cell shows it

The command is `vaswani-tx explain MODEL "source text" -o page.html`.
"""

from vaswani_tx.errors import ExplainError
from vaswani_tx.explain.page import Page, page

__all__ = ["ExplainError", "Page", "page"]
