"""Errors whose message is all a learner needs: IPython shows them without a traceback."""


class WorkshopError(Exception):
    """Says what was wrong, what was expected and how to mend it; the traceback would only hide that."""

    def _render_traceback_(self):
        # IPython calls this in place of its own traceback (IPython.core.interactiveshell.showtraceback).
        return [f"{type(self).__name__}: {self}"]


class UnknownLab(WorkshopError):
    """There is no lab of this name."""

    def __init__(self, lab: str, labs):
        from .language import _  # which imports this module

        super().__init__(_("there is no lab {lab!r}; there are {labs}", lab=lab, labs=", ".join(labs)))
