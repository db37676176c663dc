"""A gang under Ray: one actor that keeps it going, and under it one actor on each of its nodes.

The keeper is a job of the launcher like any worker's, found by its name. It is made anew for every
turn, and places its nodes before it answers: until then it waits, as every actor without a node.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from proxy_trainer.exits import BROKEN
from proxy_trainer.launch.crew import JobFiles
from proxy_trainer.launch.gang import GangOrder
from proxy_trainer.launch.gang_node import LATE_SECONDS, Meeting, Node, NodeEnd, conclude
from proxy_trainer.launch.ray_keeper import AGAIN_SECONDS
from regmix import claims
from regmix.claims import Glance
from regmix.errors import RegmixError
from regmix.layout import StudyLayout

POLL_SECONDS = 1.0
END_SECONDS = 60.0
"""For a checkpoint, once the gang is told to end or has lost a part."""


@dataclass(frozen=True)
class Needs:
    """What one node of a gang takes up."""

    cpus: float
    gpus: float
    resources: dict[str, float]

    def bundle(self) -> dict[str, float]:
        """By Ray's names; what is none of is left out."""
        found = {"CPU": self.cpus, "GPU": self.gpus, **self.resources}
        return {name: value for name, value in found.items() if value}


class GangNode:
    """One node's processes; its actor answers while they run."""

    def __init__(self, order: GangOrder, job_id: str, number: int) -> None:
        self._order, self._number = order, number
        self._files = JobFiles.of(order.study, "ray", job_id)
        self._stop = threading.Event()

    def meeting(self) -> Meeting:
        """Where the gang can meet on this node."""
        import ray

        return Meeting.here(ray.util.get_node_ip_address())

    def run(self, meeting: Meeting) -> NodeEnd:
        """Start the processes and wait for their end."""
        gang = self._order.gang
        try:
            node = Node(
                self._order, self._number, meeting if gang.nodes > 1 else None,
                self._files.log(self._number), end_seconds=END_SECONDS,
            )  # fmt: skip
        except RegmixError as exc:
            return NodeEnd(BROKEN, (str(exc),))
        return node.wait(lambda: self._stop.is_set() or self._files.cancelled.exists())

    def stop(self) -> None:
        """Have them leave a checkpoint and end."""
        self._stop.set()


class GangKeeper:
    """One turn of a gang; an instance lives in a process of its own that Ray started."""

    def __init__(self, order: GangOrder, job_id: str, needs: Needs) -> None:
        self._order, self._job_id, self._needs = order, job_id, needs
        self._files = JobFiles.of(order.study, "ray", job_id)
        self._files.ending.unlink(missing_ok=True)
        if self._files.cancelled.exists():
            self._leave([], "")
            return
        self._group = self._place()
        self._await_release()
        self._claimed_before = len(claims.log(order.gang.run.claims))
        threading.Thread(target=self._watch, daemon=True).start()

    def ping(self) -> None:
        """Answers, and so says that the gang has its nodes."""

    def cancel(self) -> None:
        """Answers: the file that says so is seen on every node."""

    def _place(self) -> Any:
        """The gang's nodes, once the cluster has them; those of an earlier turn are given back."""
        import ray

        with suppress(ValueError):  # there was none
            ray.util.remove_placement_group(ray.util.get_placement_group(self._job_id))
        count = self._order.gang.nodes
        group = ray.util.placement_group(
            [self._needs.bundle()] * count,
            strategy="STRICT_SPREAD" if count > 1 else "PACK",
            name=self._job_id,
        )
        ray.get(group.ready())
        return group

    def _await_release(self) -> None:
        """Wait for processes of a turn whose keeper was lost.

        They end by that, but may need time for their checkpoint, and have the run until then.
        """
        runs = StudyLayout(self._order.study).runs
        log = self._order.gang.run.claims
        deadline = time.monotonic() + END_SECONDS
        while time.monotonic() < deadline and len(claims.log(log)) > self._order.since:
            last = claims.last(log)
            if last is None or not Glance(runs).holds(last):
                return
            time.sleep(POLL_SECONDS)

    def _watch(self) -> None:
        try:
            ends = self._turn()
        except Exception as exc:  # the thread's boundary: the person must be told
            self._leave([], f"{type(exc).__name__}: {exc}")
            return
        found = conclude(self._order, ends, self._claimed_before)
        if found.again and not self._files.cancelled.exists():
            self._give_back()
            time.sleep(AGAIN_SECONDS)
            os._exit(1)  # Ray makes the actor again, elsewhere if this node is on its way out
        failed = bool(found.reason) and not self._files.cancelled.exists()
        self._leave(
            [end.code for end in ends],
            f"{found.reason}; see {self._files.log(0)}" if failed else "",
        )

    def _turn(self) -> list[NodeEnd]:
        """Start the nodes and wait until all have ended."""
        import ray

        nodes = [self._node(number) for number in range(self._order.gang.nodes)]
        try:
            meeting = ray.get(nodes[0].meeting.remote())
        except ray.exceptions.RayError as exc:
            return [NodeEnd(BROKEN, (_lost(0, exc),), lost=True)]
        calls = {node.run.remote(meeting): number for number, node in enumerate(nodes)}
        ends: dict[int, NodeEnd] = {}
        deadline = float("inf")
        while len(ends) < len(nodes):
            left = [call for call, number in calls.items() if number not in ends]
            over, _ = ray.wait(left, num_returns=len(left), timeout=POLL_SECONDS)
            ends |= {calls[call]: _end(ray, call, calls[call]) for call in over}
            if deadline == float("inf") and self._is_to_end(ends):
                for number in set(range(len(nodes))) - set(ends):
                    nodes[number].stop.remote()
                deadline = time.monotonic() + END_SECONDS + 2 * LATE_SECONDS
            if time.monotonic() > deadline:
                for number in set(range(len(nodes))) - set(ends):
                    ray.kill(nodes[number])
        return list(ends.values())

    def _node(self, number: int) -> Any:
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        return (
            ray.remote(GangNode)
            .options(
                num_cpus=self._needs.cpus,
                num_gpus=self._needs.gpus,
                resources=self._needs.resources,
                max_concurrency=2,  # to be told to end while it runs
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    placement_group=self._group, placement_group_bundle_index=number
                ),
            )
            .remote(self._order, self._job_id, number)
        )

    def _is_to_end(self, ends: dict[int, NodeEnd]) -> bool:
        return self._files.cancelled.exists() or any(end.code for end in ends.values())

    def _give_back(self) -> None:
        import ray

        ray.util.remove_placement_group(self._group)

    def _leave(self, codes: list[int], reason: str) -> None:
        """Write down how it ended and give everything back, for good."""
        import ray

        self._files.end(codes, reason)
        if hasattr(self, "_group"):
            self._give_back()
        ray.kill(ray.get_runtime_context().current_actor, no_restart=True)


def _end(ray: Any, call: Any, number: int) -> NodeEnd:
    """How a node ended whose call is over; its actor may have gone with the node."""
    try:
        found: NodeEnd = ray.get(call)
    except ray.exceptions.RayError as exc:
        return NodeEnd(BROKEN, (_lost(number, exc),), lost=True)
    return found


def _lost(number: int, error: Exception) -> str:
    return f"node {number} was lost ({str(error).strip().splitlines()[0]})"
