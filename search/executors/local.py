"""Trains in worker processes on this machine, which are started once and reused.

Each worker is a fresh interpreter that runs `objectives.worker`. It inherits no lock, connection or terminal. The
coordinator talks to it over a socket pair. A worker ends with the coordinator (see `objectives.worker.lifeline`).
"""

import math
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import wait
from typing import Any

from objectives.base import DeviceError, ObjectiveError, Task
from objectives.spec import ObjectiveSpec
from objectives.worker.messages import BROKEN_DEVICE, CaptureFailed, WorkerReady, WorkerSettings
from search.common.errors import SearchError
from search.common.system import usable_cores
from search.executors.base import EpochDone, Executor, Failed, Lost, SlotEvent, lost_to_capture
from search.executors.gpu_sharing import MAX_WORKERS_PER_GPU, TURNS_PER_GPU, WORKER_BYTES, choose_workers, max_workers
from search.executors.mps import Mps
from search.executors.worker_process import WorkerProcess

TURNS = "without CUDA MPS several workers only take turns on a GPU"
MAX_FAILED_STARTS = 3
# Higher after SIGKILL, which says little about the next start, and on a GPU that worked: after a fault, MPS lets nobody
# in until all of its clients have ended. The later of these starts are delayed, by 39 s together.
MAX_PATIENT_STARTS = 10
MAX_DELAY_S = 8.0
MAX_MPS_FAULTS = 2
MPS_RECOVERS = "its worker was ended so that CUDA MPS can recover: a fault of one worker breaks all on the same GPU"
MPS_IS_OFF = (
    f"CUDA MPS is off for the rest of this search: {MAX_MPS_FAULTS} times a fault of one worker broke all on its GPU. "
    "From now on workers take turns on a GPU, and a fault breaks only its own worker"
)
STARTS_WITHOUT_MPS = "its worker was ended, and another one starts without CUDA MPS"


class LocalExecutor(Executor):
    """As many slots as workers.

    Without `jobs` there is one single-threaded worker per core. On GPUs it starts as many workers as may be useful,
    spread over all GPUs, and `tune_workers` keeps as many as make training faster. Where they only take turns, it
    starts two per GPU.
    """

    def __init__(
        self, objective: ObjectiveSpec, device: str, jobs: int | None, *, notice: Callable[[str], None] = print
    ) -> None:
        """Start the first workers.

        `notice`: what shows a text to the user.
        """
        self._objective, self._device, self._jobs, self._cores = objective, device, jobs, usable_cores()
        self._notice = notice
        self._workers: list[WorkerProcess] = []
        self._ending: list[WorkerProcess] = []
        self._notices: set[str] = set()  # of the measured trainings
        self._gpus = 0
        self._mps_faults = 0
        self._mps = Mps(device, jobs)
        self._per_gpu = TURNS_PER_GPU if self._mps.problem else MAX_WORKERS_PER_GPU
        # Only a worker can tell what `auto` means here. One per core would be too many for one GPU.
        try:
            self._add_workers(jobs or max_workers(self._cores, 0 if device == "cpu" else 1, self._per_gpu))
        except BaseException:
            self.close()
            raise

    @property
    def slots(self) -> int:
        return len(self._workers)

    def set_demand(self, tasks: int) -> None:
        """Keep all workers: idle ones cost nothing."""

    def ready(self) -> list[str]:
        workers = self._await_ready()
        if self._jobs is None:
            self._add_workers(max_workers(self._cores, workers[0].gpus, self._per_gpu))
            workers = self._await_ready()
        self._gpus = workers[0].gpus
        if not self._gpus:
            self._mps.close()  # the machine has a GPU that torch cannot use
        return [worker.device for worker in workers]

    def _add_workers(self, total: int) -> None:
        threads = max(1, self._cores // self._jobs) if self._jobs else 1
        for index in range(self.slots, total):
            settings = WorkerSettings(self._objective, self._device, index, threads, threads_alone=self._cores)
            self._workers.append(WorkerProcess(settings, self._mps.variables))

    def _await_ready(self) -> list[WorkerReady]:
        while len(self.available()) < self.slots:
            self.wait(1.0)
        return self.workers()

    def workers(self) -> list[WorkerReady]:
        return [worker.ready for worker in self._workers if worker.ready]

    def tune_workers(self, tasks: Sequence[Task]) -> str | None:
        """On GPUs without `jobs`, keep as many workers as train `tasks` fastest; two per GPU where they take turns."""
        workers = self._await_ready()
        gpus, problem = self._gpus, self._mps.problem
        if not gpus or (self._jobs is not None and not problem):
            return None
        if self._jobs is None:
            room = min(worker.free_bytes for worker in workers) // WORKER_BYTES
            self._end_workers(keep=gpus * max(1, min(self.slots // gpus, room)))
        reason = f"{TURNS}: {problem}" if problem else self.keep_fastest(tasks, gpus=gpus)
        through = " through CUDA MPS" if self._mps.is_on else ""
        return "\n".join([f"{_describe(workers[: self.slots])}{through} ({reason})", *sorted(self._notices)])

    def keep_fastest(self, tasks: Sequence[Task], *, gpus: int = 1) -> str:
        """Measure two workers per GPU, then twice as many, and so on; keep the best number. Returns the reason."""
        workers, reason = choose_workers(self.measure_rate, tasks, self.slots, gpus=gpus)
        self._end_workers(keep=workers)
        return reason

    def measure_rate(self, workers: int, task: Task, seconds: float) -> float:
        """Return the pulls per second of the first `workers` together while all train `task`; 0 if one fails.

        Each is measured for `seconds` and to the end of an epoch, at most ten times as long; with 0 seconds, for one
        pull. Until all are measured, none ends: fewer workers would be faster.
        """
        self._await_ready()
        pulls, rates, busy = [0] * workers, dict[int, float](), set(range(workers))
        started = time.monotonic()
        for slot in busy:
            self.start(slot, task)
        while busy:
            for slot, event in self.wait(1.0):
                if slot not in busy:  # others may die meanwhile
                    continue
                passed = time.monotonic() - started
                is_late, is_end = passed >= 10 * seconds, True
                if isinstance(event, EpochDone):
                    pulls[slot] += 1
                    is_end = event.result.epoch.is_integer()
                    if event.result.notice:
                        self._notices.add(event.result.notice)
                elif isinstance(event, Lost) or (isinstance(event, Failed) and event.kind != "diverged"):
                    rates = dict.fromkeys(range(workers), 0.0)
                if is_late or (is_end and passed >= seconds):
                    rates.setdefault(slot, pulls[slot] / passed)
                is_over = is_late or len(rates) == workers
                if isinstance(event, EpochDone):
                    (self.stop if is_over else self.advance)(slot)
                elif is_over:
                    busy.remove(slot)
                else:
                    self.start(slot, task)
        return sum(rates.values())

    def _end_workers(self, *, keep: int) -> None:
        for worker in self._workers[keep:]:
            worker.end()
        self._ending += self._workers[keep:]
        del self._workers[keep:]

    def available(self) -> list[int]:
        return [slot for slot, worker in enumerate(self._workers) if worker.ready]

    def send(self, slot: int, *command: Any) -> None:
        self._workers[slot].send(command)

    def wait(self, timeout_s: float) -> list[tuple[int, SlotEvent]]:
        slots = {worker.connection: slot for slot, worker in enumerate(self._workers)}
        events = [(slots[ready], self._receive(slots[ready])) for ready in wait(list(slots), timeout_s)]  # type: ignore[index]
        return [(slot, event) for slot, event in events if event is not None]

    def _receive(self, slot: int) -> SlotEvent | None:
        worker = self._workers[slot]
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):
            return self._replace(slot)
        if isinstance(message, ObjectiveError):
            if isinstance(message, DeviceError) and worker.worked_before:
                if self._mps.is_on and not worker.failed_starts:
                    self._recover_mps(worker.settings.device, worker.started_at)
                return self._replace(slot, str(message))
            raise message
        if isinstance(message, WorkerReady):
            worker.ready, worker.ready_at = message, time.monotonic()
            return None
        if isinstance(message, CaptureFailed):
            worker.settings = replace(worker.settings, capture=False)
            worker.kill(lost_to_capture(message).reason)
            return None  # its end comes next
        event: SlotEvent = message
        return event

    def _replace(self, slot: int, said: str = "") -> Lost | None:
        """Start another worker in the place of one that died, on the same device.

        `said`: why it could not be set up. Raises SearchError when none starts.
        """
        old = self._workers[slot]
        reason = "\n".join(filter(None, [said, old.describe_end()]))
        old.reap(0)
        status, reason = old.process.returncode, old.ended or reason
        if self._mps.is_on and old.ready and not old.ended and status == BROKEN_DEVICE:
            self._recover_mps(old.ready.device, math.inf)
        failed_starts = 0 if old.ready else old.failed_starts + (not old.ended)
        is_patient = status == -signal.SIGKILL or (old.worked_before and old.settings.device.startswith("cuda"))
        if failed_starts >= (MAX_PATIENT_STARTS if is_patient else MAX_FAILED_STARTS):
            raise SearchError(f"workers do not start: {reason}")
        delay_s = 0.0
        if failed_starts >= MAX_FAILED_STARTS:
            delay_s = min(MAX_DELAY_S, 2.0 ** (failed_starts - MAX_FAILED_STARTS))
            if all(worker.failed_starts < MAX_FAILED_STARTS for worker in self._workers):
                self._notice(f"a worker does not start, and is tried up to {MAX_PATIENT_STARTS} times: {reason}")
        # `auto` could mean the CPU now, if the GPU does not answer yet.
        device = old.ready.device if old.ready else old.settings.device
        self._workers[slot] = WorkerProcess(
            replace(old.settings, device=device, delay_s=delay_s),
            self._mps.variables,
            failed_starts=failed_starts,
            worked_before=old.worked_before or old.ready is not None,
        )
        return Lost(reason, may_be_task=not old.ended) if old.ready else None

    def _recover_mps(self, device: str, before: float) -> None:
        """End the workers that were set up on this GPU before `before`: MPS recovers when all of its clients are gone.

        Workers that train would meet the fault themselves. Idle ones would keep MPS waiting forever. It is unknown
        whose fault it was, so no task is to blame. After the second fault MPS is turned off, so that a task that
        always causes one then fails alone.
        """
        clients = [
            worker
            for worker in self._workers
            if worker.ready and worker.ready.device == device and worker.ready_at < before and not worker.ended
        ]
        if not clients:  # they have been ended already
            return
        self._mps_faults += 1
        reason = MPS_RECOVERS
        if self._mps_faults == MAX_MPS_FAULTS:
            self._mps.turn_off()
            self._notice(MPS_IS_OFF)
            clients, reason = [worker for worker in self._workers if not worker.ended], STARTS_WITHOUT_MPS
        for worker in clients:
            worker.kill(reason)

    def close(self) -> None:
        """End all workers within a few seconds, and then what they shared GPUs through."""
        self._end_workers(keep=0)
        deadline = time.monotonic() + 3.0
        for worker in self._ending:
            worker.reap(max(0.0, deadline - time.monotonic()))
        self._mps.close()


def _describe(workers: Sequence[WorkerReady]) -> str:
    devices = ", ".join(sorted({worker.device for worker in workers}))
    return f"{len(workers)} worker{'' if len(workers) == 1 else 's'} on {devices}"
