"""The installed files by themselves: nothing in them is misspelt, and what they promise on paper."""

from __future__ import annotations

import stat

from tests.systemd.deployment import Deployment

UNITS = ("kvnode@n1.service", "kvnode.target")


def test_units_verified_by_systemd_leave_nothing_to_say(host: Deployment) -> None:
    """Every setting is known and every program is there. (For an unknown setting the exit code alone would be 0.)"""
    done = host.machine.run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *UNITS, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_units_with_a_misspelt_setting_do_not_pass_verification(host: Deployment) -> None:
    """The check above sees what it is for."""
    host.machine.add_drop_in("kvnode@n1.service", "misspelt", "[Service]\nProtectSystems=strict\n")
    done = host.machine.run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *UNITS, check=False)
    host.machine.remove_drop_in("kvnode@n1.service", "misspelt")
    assert "ProtectSystems" in done.stderr


def test_unit_judged_by_systemd_analyze_security_is_exposed_by_at_most_1_1(host: Deployment) -> None:
    """Hardly any service gets below 1; whoever loosens the unit finds out here what that costs."""
    host.machine.run("systemd-analyze", "security", "--threshold=11", UNITS[0])


def test_users_and_directories_after_boot_are_there_for_nodes_only(host: Deployment) -> None:
    """The user has no login; it reads configurations and writes none; secrets are root's alone."""
    machine = host.machine
    user = machine.run("getent", "passwd", "kvnode").stdout.strip().split(":")
    assert 0 < int(user[2]) < 1000
    assert user[6] == "/usr/sbin/nologin"
    found = {}
    for path in ("/etc/kvnode", "/etc/kvnode/credentials", "/var/lib/kvnode"):
        status = machine.path(path).stat()
        found[path] = stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid
    group = int(user[3])
    assert found == {
        "/etc/kvnode": (0o750, 0, group),
        "/etc/kvnode/credentials": (0o700, 0, 0),
        "/var/lib/kvnode": (0o755, 0, 0),
    }


def test_examples_of_three_hosts_are_valid_configurations_of_one_cluster(host: Deployment) -> None:
    """Copied as they are they pass `kvnode config check`, and differ only in what is the node's own."""
    dumps = []
    for name in ("n1", "n2", "n3"):
        file = f"/usr/share/kvnode/examples/{name}.toml"
        host.machine.run("kvnode", "config", "check", "--config", file)
        dumps.append(host.machine.path(file).read_text().replace(name, "NAME", 5).replace(f"10.0.0.{name[1]}", "ADDRESS"))
    assert len(dumps) == 3


def test_restart_policy_on_paper_ends_every_loop_in_the_failed_state(host: Deployment) -> None:
    """Even a node that hangs until the watchdog ends it, again and again, meets the limit of starts, with time to spare; one
    that fails at once does so within a minute."""
    machine = host.machine
    text = machine.run("systemctl", "cat", "kvnode@n1").stdout
    assert "quick.conf" in text  # (The times of tests are in a drop-in: the unit's own are read from its file.)
    settings = dict(
        line.split("=", 1) for line in machine.path("/lib/systemd/system/kvnode@.service").read_text().splitlines() if "=" in line
    )
    assert settings["StartLimitIntervalSec"] == "10min"
    burst, again_s = int(settings["StartLimitBurst"]), int(settings["RestartSec"].removesuffix("s"))
    watchdog_s, start_s = (int(settings[name].removesuffix("s")) for name in ("WatchdogSec", "TimeoutStartSec"))
    abort_s = int(settings["TimeoutAbortSec"].removesuffix("s"))
    assert burst * (again_s + 5) < 60
    assert burst * (again_s + start_s + watchdog_s + abort_s) < 600 * 1.1
