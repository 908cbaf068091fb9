"""How JupyterLab opens here: JUPYTER_CONFIG_PATH=utils/lab names this folder (make lab)."""

import atexit
import subprocess
import sys

from workshop import ROOT
from workshop.language import UnknownLanguage, labs_folder

c = get_config()  # noqa: F821  (Jupyter puts it here)

# The first lab is in front, in the language that is wanted; the root is the repository, since the labs link to what
# lies beside them.
try:
    c.LabApp.default_url = f"/lab/tree/{labs_folder().relative_to(ROOT).as_posix()}/00_setup.ipynb"
except UnknownLanguage as error:
    sys.exit(str(error))
# Neither a question about news nor a request to anybody: what runs here stays on this machine.
c.LabApp.news_url = None
c.LabApp.check_for_updates_class = "jupyterlab.NeverCheckForUpdate"
# An extension would be installed past requirements.lock; the manager also asks the package index for its list.
c.LabApp.extension_manager = "readonly"

# An endpoint outlives JupyterLab, and on AWS goes on costing: who closes it is told.
atexit.register(subprocess.run, [sys.executable, "-m", "workshop", "running"])
