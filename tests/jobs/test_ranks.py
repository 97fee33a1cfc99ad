"""What each of several processes says of itself."""

from socket import gethostname

import pytest

from jobs.cli import main


@pytest.fixture
def said_by(monkeypatch, capsys, tmp_path):
    """Runs a verb on a run that is not there, as a rank of so many; what it says, and the code."""

    def run(verb, rank, size):
        if size > 1:
            monkeypatch.setenv("HOROVOD_RANK", str(rank))
            monkeypatch.setenv("HOROVOD_SIZE", str(size))
        code = main([verb, str(tmp_path / "nowhere")])
        return capsys.readouterr().err.splitlines(), code

    return run


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_says_how_it_ended(said_by, rank):
    lines, code = said_by("evaluate", rank, 2)
    assert code == 2
    assert lines[-1] == (
        f"vit evaluate: rank {rank} of 2 on {gethostname()} ended: the settings are wrong "
        "(exit code 2)"
    )


def test_a_process_without_peers_says_nothing_of_ranks(said_by):
    lines, code = said_by("evaluate", 0, 1)
    assert code == 2
    assert not any("rank" in line for line in lines)
