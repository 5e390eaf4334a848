"""Collection in actors of a Ray cluster, one started here."""

import logging
import os
import signal
import sys
from pathlib import Path

import pytest
import ray
import torch
from drift import make_drift
from feeds import make_agent

from dreammpc.configuration.collectors import build_collector
from dreammpc.configuration.schemas import CollectorConfig, TrainConfig
from dreammpc.data import WorkersDied
from dreammpc.data.ray_workers import RayWorkerCollector
from dreammpc.interfaces import UsageError

HELPERS = Path(__file__).parent / "helpers"


def test_no_cluster_where_one_is_said_to_be(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "nowhere")
    with pytest.raises(UsageError, match=r"no Ray cluster could be joined or started.*nowhere"):
        RayWorkerCollector(make_drift, make_agent(), workers=1, num_envs=1, steps=8, seed=5)


@pytest.fixture(scope="module")
def collector_class():
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join([str(HELPERS), *sys.path])}},
    )
    yield RayWorkerCollector
    ray.shutdown()


def kill_first(collector) -> None:
    actor = collector._collector.remote_collectors[0]
    os.kill(ray.get(actor.__ray_call__.remote(lambda self: os.getpid())), signal.SIGKILL)


def test_actors_act_with_the_newest_weights_and_start_again_when_one_dies(collector_class, caplog):
    agent = make_agent()
    agent.random = True
    collector = collector_class(
        make_drift, agent, workers=2, num_envs=2, steps=8, seed=5, prefetch=True, restarts=1
    )
    batch = next(collector)
    assert batch.shape == (4, 8)
    assert len(batch["action"].unique()) == 64  # random, and of another stream in every actor
    agent.random = False
    next(collector)  # was begun before the switch
    for _ in range(2):
        with torch.no_grad():
            for parameter in agent.model.actor.parameters():
                parameter.add_(torch.randn_like(parameter))
        next(collector)
        batch = next(collector).flatten()
        latent = agent.model.observe(batch.select("observation"), None, None)
        torch.testing.assert_close(batch["action"], agent.model.policy(latent, torch.zeros(32, 2)))

    kill_first(collector)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert next(collector).shape == (4, 8)
    assert "all start again (1 of 1)" in caplog.text

    kill_first(collector)
    with pytest.raises(WorkersDied, match="workers died 2 times"):
        for _ in range(3):
            next(collector)


def test_more_workers_than_the_cluster_has_cpus(collector_class):
    with pytest.raises(UsageError, match=r"collector\.workers=3: the Ray cluster has 2 CPUs"):
        collector_class(make_drift, make_agent(), workers=3, num_envs=1, steps=8, seed=5)


def test_ray_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "dreammpc.data.ray_workers", raising=False)
    config = TrainConfig(collector=CollectorConfig("ray", workers=1))
    with pytest.raises(UsageError, match=r"pip install 'dreammpc\[ray\]'"):
        build_collector(make_drift(seed=1), make_agent(), 1, config)
