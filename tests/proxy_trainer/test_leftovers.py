"""What a run leaves whose worker was killed once it was done."""

from __future__ import annotations

import pytest

from proxy_trainer import leftovers, loop, steps
from proxy_trainer.launch.claims import Claimant
from proxy_trainer.train import train
from regmix.layout import RunLayout
from regmix.study import Study


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.fixture
def run(study: Study, monkeypatch: pytest.MonkeyPatch) -> RunLayout:
    """A run that is done, with its checkpoints, and with a model from before it once diverged."""
    made = study.layout.run(study.propose().specs[0].run_id)
    made.before.mkdir()

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(loop.leftovers, "clear", killed)
        with pytest.raises(Killed):
            train(study.layout, [made], checkpoint_seconds=0.0)
    assert made.done.exists()
    assert list(made.checkpoints.iterdir())
    return made


def test_the_next_command_removes_it(study: Study, run: RunLayout) -> None:
    other = study.layout.run(study.propose().specs[1].run_id)
    other.checkpoints.mkdir()
    (other.checkpoints / "of a run that is open").touch()
    before = run.done.read_text()
    steps.train(study, [run.run_id])
    assert list(run.checkpoints.iterdir()) == []
    assert not run.before.exists()
    assert run.done.read_text() == before
    assert list(other.checkpoints.iterdir())


def test_who_is_still_at_it_is_left_alone(study: Study, run: RunLayout) -> None:
    done = run.done.read_text()
    run.done.unlink()
    with Claimant(study.layout.runs, "w", 120.0).at_work() as who:
        claim = who.take(run)
        assert claim is not None
        run.done.write_text(done)
        leftovers.sweep(study.layout)
        assert list(run.checkpoints.iterdir())
        claim.release("done")
        leftovers.sweep(study.layout)
        assert not list(run.checkpoints.iterdir())
