"""scale, stop and resume of a running run."""

from deploy.fleet import connect, launch
from tests.helpers.runs import follow, metric


def rows(status):
    return {(row["slot"], row["state"]) for row in status["actors"]}


def test_scale_up_and_down_then_stop_then_resume(start_run):
    client, folder = start_run()
    follow(client, lambda s: metric(s, "progress/updates") > 20, "first updates", 90)
    connect(folder).scale(2)
    follow(client, lambda s: rows(s) == {(0, "running"), (1, "running")}, "two actors", 60)
    client.scale(1)
    down = follow(client, lambda s: rows(s) == {(0, "running")}, "one actor", 60)
    assert metric(down, "actors/restarts") == 0
    before = metric(down, "progress/updates")
    follow(client, lambda s: metric(s, "progress/updates") > before + 20, "updates with one actor", 60)

    client.stop()
    stopped = client.wait_finished(60)
    client.shutdown()
    assert stopped["state"] == "stopped"
    assert not stopped["actors"]
    at_stop, size = metric(stopped, "progress/env_steps"), metric(stopped, "replay/size")
    assert at_stop > 500

    again = launch(folder.load_config(), folder, resume=True)
    try:
        resumed = follow(
            again, lambda s: s["learner"].get("ready") and s["state"] == "running", "resumed", 90
        )
        assert metric(resumed, "progress/env_steps") >= at_stop
        assert metric(resumed, "replay/size") >= size
        on = follow(again, lambda s: metric(s, "progress/env_steps") > at_stop + 300, "going on", 90)
        assert metric(on, "progress/updates") > metric(stopped, "progress/updates")
        assert metric(on, "replay/missing") == 0
        assert metric(on, "progress/seconds") > metric(stopped, "progress/seconds")
        assert all(row["incarnation"] == 1 for row in on["actors"]), "an incarnation never comes back"
    finally:
        again.stop()
        assert again.wait_finished(60)["state"] == "stopped"
        again.shutdown()
