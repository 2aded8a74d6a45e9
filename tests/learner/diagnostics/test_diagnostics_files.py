"""The arrays of diagnoses on disk: whole, bounded in number, spread over the training."""

import numpy as np

from learner.diagnostics import files as diagnosis_files
from learner.diagnostics.files import array_files, array_path, read_arrays, save_arrays


def test_files_are_thinned_out_over_the_whole_training(tmp_path, monkeypatch):
    monkeypatch.setattr(diagnosis_files, "MAX_FILES", 8)
    for update in range(1, 61):
        path = save_arrays(tmp_path, update, {"update": np.array(update)})
        assert path == array_path(tmp_path, update)
        assert path.is_file()
        kept = [int(read_arrays(tmp_path, int(p.stem[-9:]))["update"]) for p in array_files(tmp_path)]
        assert len(kept) <= 8
        assert (kept[0], kept[-1]) == (1, update)
        assert max(np.diff(kept), default=0) <= max(1, 2.5 * update / 8), "spread evenly"
    assert not list((tmp_path / "diagnostics").glob(".tmp*"))


def test_arrays_that_are_gone_or_broken_are_none(tmp_path):
    assert read_arrays(tmp_path, 3) == {}
    assert array_files(tmp_path) == []
    path = save_arrays(tmp_path, 3, {"entk": np.eye(2)})
    for content in (b"", b"nothing", path.read_bytes()[:-30]):
        path.write_bytes(content)
        assert read_arrays(tmp_path, 3) == {}
