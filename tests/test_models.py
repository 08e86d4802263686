"""What importing the tables has done."""

import subprocess
import sys

from tests.servers import ROOT


def test_the_mapping_of_rows_is_built_before_a_worker_is_forked():
    code = "import models; print([mapper.configured for mapper in models.db.Model.registry.mappers])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert "True" in done.stdout and "False" not in done.stdout
