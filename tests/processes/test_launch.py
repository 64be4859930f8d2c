"""Starting processes, with ones that need no JAX: output, exit codes, signals, addresses."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from planner.errors import ProcessError
from planner.processes.launch import Launch, launch


def script(text):
    return lambda coordinator, n: (sys.executable, "-c", f"import os,sys,time; n={n}; where={coordinator!r}\n{text}")


def test_process_0_is_shown_and_errors_of_all(capfd):
    code = launch(Launch(script("print('out', n, flush=True); print('err', n, file=sys.stderr)"), 2))
    out, err = capfd.readouterr()
    assert code == 0 and out == "out 0\n" and sorted(err.splitlines()) == ["err 0", "process 1: err 1"]


def test_the_code_is_that_of_who_failed_by_itself():
    assert launch(Launch(script("sys.exit(5 if n == 1 else 70)"), 3)) == 5
    assert launch(Launch(script("sys.exit(70 if n == 1 else 0)"), 2)) == 70


def test_who_lives_on_after_a_failure_is_killed(capfd):
    assert launch(Launch(script("os.kill(os.getpid(), 9) if n else time.sleep(600)"), 2, end_s=0.2)) == 128 + 9
    assert "process 1 was ended by SIGKILL" in capfd.readouterr().err


def test_signals_are_passed_on(capfd):
    text = "import signal; signal.signal(15, lambda *_: sys.exit(7)); n or os.kill(os.getppid(), 15); time.sleep(600)"
    before = signal.getsignal(signal.SIGTERM)
    command = (sys.executable, "-c", "import sys; from planner.processes.launch import Launch, launch; "
               f"sys.exit(launch(Launch(lambda c, n: (sys.executable, '-c', {'import os,sys,time; n='!r} + str(n) + "
               f"{chr(10) + text!r}), 2)))")
    done = subprocess.run(command, timeout=60, check=False, cwd=os.getcwd())
    assert done.returncode == 7 and signal.getsignal(signal.SIGTERM) is before


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ProcessError, match=f"cannot listen at {where}"):
            launch(Launch(script(""), 2, where))
    with pytest.raises(ProcessError, match="is not an address"):
        launch(Launch(script(""), 2, "here"))
