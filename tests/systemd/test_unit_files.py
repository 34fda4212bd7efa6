"""The installed files by themselves: nothing in them is misspelt, and what they promise on paper."""

from __future__ import annotations

import re
import stat

from kvnode.config import Config
from kvnode.process import STOP_MAX
from tests.systemd.deployment import Deployment
from tests.tidy.source import ROOT

EXAMPLES = ROOT / "systemd" / "examples"

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


def test_examples_of_three_hosts_are_configurations_of_one_cluster() -> None:
    """They are valid, agree in all but what is the node's own, and put data where the unit lets the node write."""
    configs = [Config.load(EXAMPLES / f"{name}.toml", {}, {}) for name in ("n1", "n2", "n3")]
    assert configs[0].cluster == configs[1].cluster == configs[2].cluster
    for config in configs:
        assert config.cluster.members[config.node.name] == config.node.listen
        assert str(config.node.data_dir) == f"/var/lib/kvnode/{config.node.name}"


def _settings() -> dict[str, float]:
    """The numbers in the unit: durations in seconds."""
    found = re.findall(r"^(\w+)=(\d+)(s|min|)$", (ROOT / "systemd" / "kvnode@.service").read_text(), re.MULTILINE)
    return {name: float(number) * {"min": 60, "s": 1, "": 1}[unit] for name, number, unit in found}


def test_restart_policy_on_paper_ends_every_loop_in_the_failed_state() -> None:
    """A node that hangs at its start, or whenever it has started, meets the limit of starts, with time to spare; one that
    fails at once does so within a minute, if a start takes 5 s."""
    unit, start_s = _settings(), 5.0
    starts, again_s, abort_s = unit["StartLimitBurst"], unit["RestartSec"], unit["TimeoutAbortSec"]
    assert starts * (start_s + again_s) < 60
    assert starts * (unit["TimeoutStartSec"] + abort_s + again_s) < unit["StartLimitIntervalSec"]
    assert starts * (start_s + unit["WatchdogSec"] + abort_s + again_s) < unit["StartLimitIntervalSec"]


def test_stop_on_paper_has_more_time_than_the_node_takes_for_it() -> None:
    """A node that cannot stop gives up by itself, and says so: systemd need not end it."""
    assert _settings()["TimeoutStopSec"] > STOP_MAX + 3
