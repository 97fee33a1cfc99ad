"""What a run tells while it trains, and what it remembers from its earlier starts."""

from fractions import Fraction

from pipeline.monitor.progress import ProgressDisplay
from pipeline.runs.folder import RunFolder
from pipeline.training.journal import Journal
from tests.training.experiments import tiny


def start(folder, repaired):
    """One start of a run in which libjpeg repairs these images."""
    experiment = tiny(folder)
    for name, warning in repaired.items():
        experiment.skipped.add_repaired(name, warning)
    run = RunFolder(folder / "run")
    journal = Journal(experiment, run, ProgressDisplay(20, Fraction(5)))
    journal.rewind(0)
    journal.report_skipped()
    journal.close()
    return run


def test_a_repaired_image_is_listed_once_in_all_starts(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    first = {"train/a b/\u00e4.jpg": "Corrupt JPEG data: 3 bytes", "train/c.jpg": "Premature end"}
    listed = "train/a b/\u00e4.jpg\tCorrupt JPEG data: 3 bytes\ntrain/c.jpg\tPremature end\n"
    run = start(tmp_path, first)
    assert run.repaired.read_text(encoding="utf-8") == listed
    assert "repaired 2 damaged image(s)" in capsys.readouterr().out
    start(tmp_path, first)
    assert run.repaired.read_text(encoding="utf-8") == listed
    assert "image(s)" not in capsys.readouterr().out
    start(tmp_path, first | {"train/b.jpg": "Premature end"})
    assert run.repaired.read_text(encoding="utf-8") == f"{listed}train/b.jpg\tPremature end\n"
    assert "repaired 3 damaged image(s)" in capsys.readouterr().out
