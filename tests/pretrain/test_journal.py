from carp_eval.pretrain import journal


def test_entries_come_back_and_a_resumed_run_drops_what_came_after_its_checkpoint(tmp_path):
    first = journal.Journal(tmp_path, step=0)
    for step in (10, 20, 30):
        first.write(step=step, values={"loss": step / 10})
    first.close()
    with (tmp_path / journal.LOG).open("a") as file:
        file.write('{"step": 40, "lo')
    assert [entry["step"] for entry in journal.entries(tmp_path)] == [10, 20, 30]
    second = journal.Journal(tmp_path, step=20)
    second.write(step=30, values={"loss": 9.0})
    second.close()
    assert [(entry["step"], entry["loss"]) for entry in journal.entries(tmp_path)] == [
        (10, 1.0),
        (20, 2.0),
        (30, 9.0),
    ]
    assert list((tmp_path / "tensorboard").iterdir())


def test_no_log_is_no_entries(tmp_path):
    assert journal.entries(tmp_path) == []
