"""CUDA MPS, NVIDIA's Multi-Process Service: the kernels of several processes run on a GPU at the same time.

Without it processes take turns, and on an H100 four workers together trained as fast as one. With it eight trained 2.2
to 3.8 times as fast (MNIST, steps a second, torch 2.11, 16 cores; docs/benchmarks.md).
Source: https://docs.nvidia.com/deploy/mps
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from objectives.devices import n_nvidia_gpus
from search.common.text import one_line

CONTROL = "nvidia-cuda-mps-control"
FOLDERS = ("/usr/local/nvidia/bin", "/usr/bin")  # where containers and packages have it, in addition to PATH
PIPES = "CUDA_MPS_PIPE_DIRECTORY"
DEFAULT_PIPES = "/tmp/nvidia-mps"
WITHOUT_MPS = {PIPES: "/nonexistent"}  # workers find no daemon there
START_S = 10  # the daemon, and then its first client, may each take so long
QUIT_S = 5

# Starts the daemon $0 and ends it when standard input is closed, which the operating system does however the
# coordinator ends, or when it gets a signal. `quit` gives clients 2 s.
SUPERVISOR = f"""
log="$CUDA_MPS_LOG_DIRECTORY/start.txt"
pid="${PIPES}/{CONTROL}.pid"
end() {{
    if [ -e "$pid" ]; then
        echo "quit -t 2" | timeout -k 1 {QUIT_S} "$0" >"$log" 2>&1 || kill -9 "$(cat "$pid")"
    fi
    rm -rf "${PIPES}"
}}
trap end EXIT
trap exit HUP INT TERM
timeout -k 1 {START_S} "$0" -d >"$log" 2>&1
status=$?
if [ $status != 0 ]; then
    [ -s "$log" ] || echo "it exited with status $status" >"$log"
    head -n 1 "$log"
    exit
fi
echo started
read -r _
"""

# In a process of its own, because CUDA is set up once in a process. Where no driver is, no worker finds a GPU either.
CLIENT = """
import ctypes, sys
try:
    cuda = ctypes.CDLL("libcuda.so.1")
except OSError:
    sys.exit()
context = ctypes.c_void_p()
status = cuda.cuInit(0) or cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0)
sys.exit(f"a client gets CUDA error {status}" if status else 0)
"""


class Mps:
    """The MPS daemon for `jobs` workers that share NVIDIA GPUs; `jobs` None: as many as make training faster.

    A daemon of the user is used where there is one, if it serves a client. Otherwise one is started, with a folder of
    its own; it ends with `close`, or with this process. The GPU's compute mode is not changed.
    """

    def __init__(self, device: str, jobs: int | None) -> None:
        self.variables: dict[str, str] = {}
        """Environment variables of the workers."""
        self.is_on = False
        self.problem: str | None = None
        """Why workers take turns on an NVIDIA GPU, if they do."""
        self._folder: Path | None = None
        self._supervisor: subprocess.Popen[str] | None = None
        gpus = visible_gpus()
        if device in ("cpu", "mps") or not gpus or (jobs is not None and jobs <= (1 if ":" in device else gpus)):
            return
        pipes = os.environ.get(PIPES) or DEFAULT_PIPES
        has_daemon = os.path.exists(f"{pipes}/control")
        if has_daemon or os.environ.get(PIPES):
            problem = self._try_client() if has_daemon else "none runs there"
            if problem:
                self.turn_off()
                self.problem = f"{pipes} should be the folder of an MPS daemon, but {problem}"
            self.is_on = not problem
            return
        try:
            self.problem = self._start()
        except OSError as error:
            self.problem = one_line(f"{CONTROL} cannot be used: {error}", limit=300)
        except BaseException:
            self.close()
            raise
        self.is_on = self.problem is None
        if not self.is_on:
            self.close()

    def _start(self) -> str | None:
        """Start the daemon and try it. Returns why it cannot be used."""
        control = shutil.which(CONTROL, path=os.pathsep.join((os.environ.get("PATH", os.defpath), *FOLDERS)))
        if control is None:
            return f"{CONTROL} is not installed"
        # In /tmp, because the path of a socket may have 107 characters and TMPDIR may be long.
        self._folder = Path(tempfile.mkdtemp(prefix="search-mps-", dir="/tmp"))
        self.variables = dict.fromkeys((PIPES, "CUDA_MPS_LOG_DIRECTORY"), str(self._folder))
        environment = {**os.environ, **self.variables}
        # The daemon would renumber the GPUs of this variable, and a worker's value would then mean other GPUs.
        # Names of GPUs mean the same to both.
        if not environment.get("CUDA_VISIBLE_DEVICES", "").startswith(("GPU-", "MIG-")):
            environment.pop("CUDA_VISIBLE_DEVICES", None)
        self._supervisor = subprocess.Popen(
            ["sh", "-c", SUPERVISOR, control],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # Ctrl-C in the terminal does not end it before the workers
        )
        assert self._supervisor.stdout is not None
        answer = self._supervisor.stdout.readline().strip()
        if answer != "started":
            return one_line(f"{CONTROL} does not start: {answer or 'it printed nothing'}", limit=300)
        problem = self._try_client()
        return f"{CONTROL} runs, but {problem}" if problem else None

    def _try_client(self) -> str | None:
        """Use a GPU through the daemon. Returns why that fails."""
        try:
            client = subprocess.run(
                [sys.executable, "-I", "-S", "-c", CLIENT],
                env={**os.environ, **self.variables},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=START_S,
            )
        except subprocess.TimeoutExpired:
            return f"a client had to wait for more than {START_S} s"
        return one_line(client.stderr, limit=300) if client.returncode else None

    def turn_off(self) -> None:
        """Let workers that start from now on use their GPU without MPS. The daemon, if one was started, stays."""
        self.is_on, self.variables = False, WITHOUT_MPS

    def close(self) -> None:
        """End the daemon that was started here. A second call does nothing."""
        self.is_on, self.variables = False, {}
        supervisor, self._supervisor = self._supervisor, None
        folder, self._folder = self._folder, None
        if supervisor is not None:
            assert supervisor.stdin is not None
            assert supervisor.stdout is not None
            supervisor.stdin.close()
            try:
                supervisor.wait(START_S + QUIT_S + 3)  # of which it needs little, unless the daemon hangs
            except subprocess.TimeoutExpired:
                supervisor.kill()
                supervisor.wait()
            supervisor.stdout.close()
        if folder is not None:  # the supervisor has done this, unless it could not start or was killed
            with contextlib.suppress(OSError, ValueError):
                os.kill(int((folder / f"{CONTROL}.pid").read_text()), signal.SIGKILL)
            shutil.rmtree(folder, ignore_errors=True)


def visible_gpus() -> int:
    """Return the number of NVIDIA GPUs that workers may use, as far as is known without torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return n_nvidia_gpus()
    return min(n_nvidia_gpus(), sum(name.strip() not in ("", "-1", "NoDevFiles") for name in visible.split(",")))
