"""Whole searches on Ray: nodes go and come, workers and coordinators are killed, a terminal is closed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import BOWL, HERE, PLAIN, Place, Pull, say, wait_until
from shell import is_ray_agent, mnist_folder, own_address
from test_same_ending import DIGITS
from test_signals import Terminal

from search.common.system import usable_cores

pytestmark = pytest.mark.timeout(300)

RAY = ("--engine", "ray")


class Nodes:
    """A cluster of several nodes on this machine: a head without CPUs, and others with one each."""

    def __init__(self, log: Path) -> None:
        from ray.cluster_utils import Cluster

        self.log, self.looked = log, log.with_name("looked.log")
        self._ip = own_address()
        self.cluster: Any = Cluster(True, head_node_args={"num_cpus": 0, "node_ip_address": self._ip})
        self.address = str(self.cluster.address)
        self.nodes = [self.add() for _ in range(3)]

    def add(self) -> Any:
        return self.cluster.add_node(num_cpus=1, node_ip_address=self._ip)

    def remove(self, node: Any) -> None:
        """As a machine goes: nothing on it ends in an orderly way."""
        self.cluster.remove_node(node, allow_graceful=False)

    def pulls(self) -> list[Pull]:
        lines = (line.split() for line in self.log.read_text().splitlines())
        return [Pull(float(at), word, int(pid), int(trial), int(step)) for at, word, pid, trial, step in lines]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Its workers get their settings from here: the search's environment is that of another machine."""
    folder = tmp_path_factory.mktemp("nodes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOWL_LOG", str(folder / "pulls.log"))
        patch.setenv("BOWL_STEP_S", "0.15")
        patch.setenv("LOOKED_LOG", str(folder / "looked.log"))
        patch.setenv("SEARCH_DATA_DIR", str(folder / "nothing"))  # no shared disk
        patch.setenv("XDG_CACHE_HOME", str(folder / "nothing"))
        patch.delenv("PYTHONPATH", raising=False)
        patch.chdir(folder)
        made = Nodes(folder / "pulls.log")
        yield made
        made.cluster.shutdown()


@pytest.mark.long
@pytest.mark.slow
def test_a_node_goes_and_another_comes(nodes: Nodes, place: Place):
    search = (*BOWL, *RAY, "--address", nodes.address, "--pruner", "none")
    process = place.begin(*search, "--trials", 64, "--jobs", 3)
    place.until_training(process)
    wait_until(lambda: place.finished() >= 4, 60, "the fourth trial")
    nodes.remove(nodes.nodes.pop())
    at = place.finished()
    wait_until(lambda: place.finished() >= at + 3, 60, "three trials after a node went")
    before = {pull.pid for pull in nodes.pulls()}
    nodes.nodes.append(nodes.add())
    status = place.ended(process)
    assert status == 0, place.said()
    pulls = nodes.pulls()
    say(f"a node went after {at} trials; {len({pull.pid for pull in pulls} - before)} new workers after one came")
    assert {pull.pid for pull in pulls} - before, "nothing was trained on the new node"
    counts = place.assert_whole(64)
    assert counts["states"] == {"COMPLETE": 64}
    again = sum(pull.word == "done" for pull in pulls) - 64 * 8
    say(f"{again} steps were trained twice")
    assert again <= 2
    tried = [line for line in place.said().splitlines() if "is tried again: its worker" in line]
    assert len(tried) == 1, tried
    assert_quiet(place.said())


def assert_quiet(said: str) -> None:
    """Nothing of Ray's own."""
    assert "Traceback" not in said
    assert not [line for line in said.splitlines() if "ray" in line.lower() and "RAY" not in line], said


@pytest.mark.long
def test_searches_on_one_cluster_are_separate(nodes: Nodes, place: Place, make_place: Callable[..., Place]):
    shutil.copytree(place.folder, other := place.folder.with_name("other"))
    search = (*BOWL, *RAY, "--address", nodes.address, "--cpus-per-trial", 0.5)
    doomed = make_place(other)
    kept, killed = place.begin(*search, "--trials", 16, "--jobs", 2), doomed.begin(*search, "--trials", 8, "--jobs", 2)
    doomed.until_training(killed)
    place.until_training(kept)
    workers = {pull.pid for pull in nodes.pulls()}
    doomed.kill(killed)
    at, pulled = place.finished(), len(nodes.pulls())
    wait_until(lambda: place.finished() > at, 30, "another trial of the search that was not killed")
    doomed.finish(*search, "--trials", 8, "--jobs", 2)
    assert place.ended(kept) == 0, place.said()
    place.assert_whole(16)
    doomed.assert_whole(8)
    say(f"{len(workers)} workers at the kill, {pulled} pulls before it")


@pytest.mark.skipif(mnist_folder() is None, reason="needs the files of MNIST")
@pytest.mark.long
def test_each_node_has_the_dataset_once_and_no_file_of_it(nodes: Nodes, place: Place):
    place.study, place.curve = "mnist", "val/accuracy"
    place.env = {"SEARCH_DATA_DIR": str(mnist_folder())}
    shutil.copy(HERE / "looked.py", place.folder)
    small = [f"--fix={each}" for each in ("family=mlp", "mlp_depth=1", "mlp_width_1=64", "batch_size=256")]
    place.finish(
        "--objective",
        "looked:Looked",
        *RAY,
        "--address",
        nodes.address,
        "--trials",
        8,
        "--epochs",
        1,
        *small,
        "--cpus-per-trial",
        0.5,
        "--jobs",
        4,
        "--no-register",
        *PLAIN,
    )
    place.assert_whole(8)
    found: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
    for line in nodes.looked.read_text().splitlines():
        node, pid, where = line.split()
        found[node].add((pid, where))
    workers = {node: len({pid for pid, _ in seen}) for node, seen in found.items()}
    copies = {node: len({where for _, where in seen}) for node, seen in found.items()}
    say(f"workers by node {sorted(workers.values())}, copies of the pictures {sorted(copies.values())}")
    assert len(found) > 1
    assert max(workers.values()) > 1
    assert set(copies.values()) == {1}
    assert len({where for seen in found.values() for _, where in seen}) == len(found)


# A Ray of the search's own ------------------------------------------------------------------------------------------


@pytest.mark.long
def test_one_worker_trains_as_a_local_one_does(place: Place, make_place: Callable[..., Place]):
    shutil.copytree(place.folder, place.folder.with_name("local"))
    ours, theirs = place, make_place(place.folder.with_name("local"))
    for each in (ours, theirs):
        each.study, each.curve = "digits", "val/accuracy"
    theirs.finish(*DIGITS, "--jobs", 1)
    ours.finish(*DIGITS, "--jobs", 1, *RAY, "--cpus-per-trial", usable_cores())
    assert ours.story() == theirs.story()
    ours.assert_whole(9)
    assert_quiet(ours.said())


@pytest.mark.long
def test_workers_and_coordinator_killed(place: Place):
    place.env = {"BOWL_STEP_S": "0.1"}
    moments, search = random.Random(22), (*BOWL, *RAY, "--trials", 16, "--jobs", 2)
    for _ in range(2):
        process = place.begin(*search)
        place.until_training(process)
        workers = {pull.pid for pull in place.pulls()} & set(place.processes())
        os.kill(moments.choice(sorted(workers)), signal.SIGKILL)
        wait_until(lambda: "is tried again: its worker (pid" in place.said(), 30, "a second try")
        place.random_moment(process, moments, reports=20)
        assert process.poll() is None, place.said()
        assert_quiet(place.said())
        process.kill()
        process.wait()
        outlived_s = wait_until(lambda: all(map(is_ray_agent, place.processes())), 10, "the end of Ray and its workers")
        say(f"Ray and its workers outlived the kill by {outlived_s:.1f} s")
    place.all_gone(90)
    place.finish(*search)
    assert place.assert_whole(16)["states"].get("FAIL", 0) == 0


@pytest.mark.long
def test_a_closed_terminal_leaves_checkpoints(place: Place):
    place.env = {"BOWL_STEP_S": "0.3"}
    search = ("--objective", "bowl:Bowl", *RAY, "--trials", 4, "--jobs", 2, *PLAIN)  # checkpoints only at the end
    for how, status in (("hang-up", 129), ("Ctrl-C", 130)):
        terminal = Terminal(place, *search)
        place.until_training(terminal.process)
        started = time.monotonic()
        if how == "hang-up":
            terminal.hang_up()
        else:
            terminal.press_ctrl_c()
        assert place.ended(terminal.process, 20) == status, terminal.shown
        left = list(place.folder.glob("mlruns/checkpoints/*/*.pt"))
        say(f"{how}: {len(left)} checkpoints after {time.monotonic() - started:.1f} s")
        assert len(left) == 2
    place.env = {}
    place.finish(*search)
    place.assert_whole(4)
    done = [pull for pull in place.pulls() if pull.word == "done"]
    assert len(done) == len({(pull.trial, pull.step) for pull in done}), "a step was trained twice"
