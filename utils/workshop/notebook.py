"""How errors look in a notebook: what the service said and the line that asked, in the place of 28 lines of botocore."""

import sys
import traceback

from botocore.exceptions import BotoCoreError, ClientError, ConnectionClosedError, EndpointConnectionError

from .errors import WorkshopError


class LostConnection(WorkshopError):
    """localaws does not answer any more."""


def in_notebook() -> bool:
    """Whether a front end shows what is displayed, and replaces it in place: in a kernel, not in a terminal."""
    return bool(getattr(shell(), "kernel", None))


def shell():
    """IPython's shell, None where there is none."""
    if "IPython" not in sys.modules:
        return None
    from IPython import get_ipython

    return get_ipython()


def names() -> dict:
    """The variables of the notebook; {} where there is none."""
    return getattr(shell(), "user_ns", {})


def explain_errors(endpoint_url: str) -> None:
    """In a notebook, show an error of AWS's in its own words, and say how localaws (at `endpoint_url`) comes back.

    Only what a cell leaves uncaught is shown differently; the exceptions are botocore's. `%tb` shows all frames.
    """
    here = shell()
    if here is None:
        return

    def explain(here, kind, error, frames, tb_offset=None):
        # As Python's own handler leaves it, for a later cell and for %tb.
        sys.last_type, sys.last_value, sys.last_traceback = kind, error, frames
        if endpoint_url and isinstance(error, EndpointConnectionError | ConnectionClosedError):
            from .language import _  # which imports this module

            error = LostConnection(
                _(
                    "localaws at {endpoint_url} does not answer: it was stopped or killed. Bring it back by running "
                    "the cell with connect() again (or `python -m localaws up` in a terminal); then run catch_up() of this "
                    "lab to bring back what was lost.",
                    endpoint_url=endpoint_url,
                )
            )
            kind, shown = LostConnection, error._render_traceback_()
        else:
            shown = _short(kind, error, frames)
        here._showtraceback(kind, error, shown)
        return shown

    here.set_custom_exc((ClientError, BotoCoreError), explain)


def _short(kind: type, error: BaseException, frames) -> list[str]:
    """The line of the cell that asked, and the error's name and words."""
    from .language import _  # which imports this module

    # A cell is compiled under a name of IPython's own, and linecache has its lines.
    own = [frame for frame in traceback.extract_tb(frames) if "ipykernel" in frame.filename and frame.line]
    asked = [_("line {number} of the cell:  {line}", number=own[0].lineno, line=own[0].line)] if own else []
    return [*asked, f"{kind.__name__}: {error}", _("(%tb shows the whole traceback)")]
