"""Runs the hosts of a training job as processes: `unshare -rm python run.py python hosts.py FOLDER PYTHON [VICTIM WORD]`.

FOLDER/algo-1, FOLDER/algo-2 … is each one's SAGEMAKER_BASE_DIR, and FOLDER/algo-1.log what it said. In the name spaces
algo-N is 127.0.0.N. VICTIM is killed once its log, or the first host's, has WORD. Prints {host: [exit code, seconds
since the kill or the start]}, and ends what has not ended within 60 of them.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

folder, python = Path(sys.argv[1]), sys.argv[2]
victim, word = sys.argv[3:] or (None, None)
train = Path(__file__).resolve().parents[2] / "container/stack/train"
hosts = sorted(path.name for path in folder.glob("algo-?"))
names = folder / "hosts"
names.write_text("127.0.0.1 localhost\n" + "".join(f"127.0.0.{name[5:]} {name}\n" for name in hosts))
subprocess.run(["mount", "--bind", names, "/etc/hosts"], check=True)
processes = {}
for host in hosts:
    with open(folder / f"{host}.log", "w") as log:
        env = os.environ | {"SAGEMAKER_BASE_DIR": str(folder / host)}
        processes[host] = subprocess.Popen([python, train], env=env, stdout=log, stderr=log)
begin = time.monotonic()
while victim and processes[victim].poll() is None:
    if any(word in (folder / f"{host}.log").read_text() for host in (victim, hosts[0])):
        processes[victim].kill()
        begin = time.monotonic()
        break
    time.sleep(0.02)
ended = {}
while len(ended) < len(hosts) and time.monotonic() - begin < 60:
    for host in processes.keys() - ended.keys():
        if (code := processes[host].poll()) is not None:
            ended[host] = [code, round(time.monotonic() - begin, 1)]
    time.sleep(0.02)
for host in processes.keys() - ended.keys():
    processes[host].kill()
    processes[host].wait()
print(json.dumps(ended))
