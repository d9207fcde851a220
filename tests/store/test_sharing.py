"""What several processes of one command may do in a workdir: one writes, the others read, and each its own."""

import numpy as np
import pytest

from relink_jax import errors
from relink_jax.store import files, shards, workdir

RUN = {"a": 1}, {"k": 1}


def test_nothing_is_written_by_a_process_that_only_reads(tmp_path):
    kept = shards.write_all(tmp_path / "s", {"x": np.ones((4, 2), np.float32)}, 2, {})
    writes = {
        "a.json": lambda: files.write_json(tmp_path / "a.json", {}),
        "log": lambda: files.open_private(tmp_path / "log"),
        "d": lambda: files.make_dir(tmp_path / "d"),
        "s": lambda: shards.discard(tmp_path / "s"),
        "t": lambda: shards.ShardWriter(tmp_path / "t", 4, 2, {}),
    }
    with files.reading_only():
        for name, write in writes.items():
            with pytest.raises(errors.RelinkError, match=f"write refused in workdir entry '{name}': expected process 0 to write it") as raised:
                write()
            assert raised.value.exit_code == 70
        assert files.make_dir(tmp_path / "s") == tmp_path / "s"
        assert shards.ShardWriter(tmp_path / "s", 4, 2, {}).finish() == kept
        with files.writing_own():
            files.write_text(tmp_path / "own", "")
        with pytest.raises(errors.RelinkError):
            files.write_text(tmp_path / "other", "")
    files.write_text(tmp_path / "after", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["after", "own", "s"]


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_every_shard_is_of_exactly_one_process(tmp_path, processes):
    writer = shards.ShardWriter(tmp_path / "s", 11, 2, {})
    every = sorted(one for process in range(processes) for one in writer.ranges(process, processes))
    assert every == [(0, 0, 2), (1, 2, 4), (2, 4, 6), (3, 6, 8), (4, 8, 10), (5, 10, 11)]
    writer.write(3, {"x": np.ones((2, 1), np.float32)})
    assert sorted(one for process in range(processes) for one in writer.missing(process, processes)) == [one for one in every if one[0] != 3]


def test_an_open_workdir_can_be_joined_and_no_other(tmp_path):
    with workdir.opened(tmp_path / "w", *RUN) as found:
        assert workdir.joined(tmp_path / "w", *RUN) == found
        for root, run, sentence in (
            ("none", RUN, "workdir not shared"),
            ("w", ({"a": 2}, RUN[1]), r"changed a 1 \(now 2\)"),
            ("w", (RUN[0], {"k": 2}), "settings of a process"),
        ):
            with pytest.raises(errors.StoreError, match=sentence):
                workdir.joined(tmp_path / root, *run)


def test_logs_may_be_there_first_and_are_never_taken_for_others(tmp_path):
    files.write_text(tmp_path / "w" / "logs" / "embed-process-00000.log", "before")

    def refused():
        with workdir.opened(tmp_path / "w", *RUN) as found:
            files.write_text(found.root / "together" / "word", "0")
            raise errors.DataError("wrong rows")

    with pytest.raises(errors.DataError):
        refused()
    assert sorted(path.name for path in (tmp_path / "w").iterdir()) == ["logs"]
    with workdir.opened(tmp_path / "w", *RUN):
        pass
    assert (tmp_path / "w" / "logs" / "embed-process-00000.log").read_text() == "before"


def test_a_command_that_stopped_as_asked_keeps_its_settings(tmp_path):
    with workdir.opened(tmp_path / "w", *RUN):
        pass
    with pytest.raises(errors.StoppedError), workdir.opened(tmp_path / "w", RUN[0], {"k": 2}):
        raise errors.StoppedError("as asked")
    assert files.read_json(tmp_path / "w" / "config.json") == {"k": 2}
