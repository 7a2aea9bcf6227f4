import subprocess
import sys

import pytest

SEVERAL = """
import json, signal, sys
from pathlib import Path

import numpy as np
import openvino
from openvino import opset8
from gridclip_runtime.engines import FORMAT, KEY, open_engine

x = opset8.parameter([2], np.float32)
model = openvino.Model([opset8.relu(x)], [x])
model.set_rt_info(json.dumps({"format": FORMAT}), KEY)
path = Path(sys.argv[1], "relu.xml")
openvino.save_model(model, path)

first = open_engine(path)
second = open_engine(path)
del first
del second
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
signal.raise_signal(signal.SIGUSR1)
"""


def test_signals_are_handled_after_openvino_files_are_closed(tmp_path):
    """In the order in which they were opened; with an ``openvino.Core`` each it would crash."""
    pytest.importorskip("openvino")
    done = subprocess.run([sys.executable, "-c", SEVERAL, tmp_path], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr
