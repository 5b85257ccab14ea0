"""The executor protocol: each executor runs all tasks, learns from each, and stops when it is closed."""

import threading
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial

import dask
import pytest
from dask.threaded import get

from shardedstore.jobs.cancellation import sleep
from shardedstore.jobs.executors.active import active_executor, use_executor
from shardedstore.jobs.executors.base import TaskList
from shardedstore.jobs.executors.local import LocalExecutor, SerialExecutor
from shardedstore.jobs.executors.on_demand import OnDemandExecutor

SCHEDULERS = ["synchronous", "threads", "processes", partial(get)]  # of another package


def square(number: int) -> int:
    return number * number


@dataclass
class Learning(TaskList):
    """Tasks that note what an executor tells of them."""

    tasks: list[int]
    learnt: dict[int, int] = field(default_factory=dict)

    def __post_init__(self):
        super().__init__("square", self.tasks)

    def learn(self, task, result):
        self.learnt[task] = result


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=["synchronous", "threads", "processes", "a function"])
def test_each_task_runs_once_and_its_result_is_learnt(scheduler):
    tasks = Learning(list(range(9)))
    with dask.config.set(scheduler=scheduler, num_workers=2):
        found = list(active_executor().map_unordered(square, tasks))
    assert dict(found) == tasks.learnt == {number: number**2 for number in range(9)}
    assert len(found) == 9


def test_serial_tasks_run_in_order_in_this_thread():
    found = list(SerialExecutor().map_unordered(lambda task: (task, threading.get_ident()), TaskList("here", "abc")))
    assert found == [(letter, (letter, threading.get_ident())) for letter in "abc"]


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_an_exception_in_this_process_is_raised(scheduler):
    with dask.config.set(scheduler=scheduler), pytest.raises(ZeroDivisionError):
        list(LocalExecutor().map_unordered(lambda number: 1 // number, TaskList("divide", [1, 0])))


def test_no_task_starts_and_those_that_run_end_after_the_generator_is_closed():
    started, ended = list[int](), list[int]()

    def work(number):
        started.append(number)
        if number:
            try:
                sleep(60)
            finally:
                ended.append(number)

    with (
        dask.config.set(scheduler="threads", num_workers=3),
        closing(LocalExecutor().map_unordered(work, TaskList("wait", range(100)))) as results,
    ):
        assert next(results) == (0, None)
    assert sorted(started) == sorted([0, *ended])
    assert len(started) <= 4


def test_an_executor_on_demand_is_started_by_the_first_task_that_needs_it():
    started = list[SerialExecutor]()

    def connect():
        started.append(SerialExecutor())
        return started[-1]

    with use_executor(OnDemandExecutor(connect)), dask.config.set(scheduler="synchronous"):
        assert list(active_executor().map_unordered(square, TaskList("none", []))) == []
        assert list(active_executor().map_unordered(square, TaskList("look", [2], is_light=True))) == [(2, 4)]
        assert started == []
        for number in (3, 4):
            assert list(active_executor().map_unordered(square, TaskList("work", [number]))) == [(number, number**2)]
        assert len(started) == 1
    assert isinstance(active_executor(), LocalExecutor)
