"""The other members: does each address lead to the member that the configuration says, and do the clocks agree?

Owns the judgement of their answers. That nobody listens at a peer is a warning, since it may not have been started yet; that
its host cannot be reached, or somebody else answers, is a problem.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kvnode import __version__
from kvnode.config import Config
from kvnode.doctor.asking import Answer, Silence
from kvnode.doctor.finding import Finding, ok, problem, skipped, warning

CLOCKS = "clocks of peers"


def judge_peers(config: Config, answers: Mapping[str, Answer | Silence]) -> list[Finding]:
    """What the peers' answers, by configured name, say about reaching them and about the time."""
    if not answers:
        return [skipped("peers", "this node is alone")]
    findings = [judge_peer(config, name, answer) for name, answer in answers.items()]
    told = {name: answer for name, answer in answers.items() if isinstance(answer, Answer) and is_member(config, name, answer)}
    return [*findings, judge_clocks(config.clock.max_clock_skew_ms, told)]


def is_member(config: Config, name: str, answer: Answer | Silence) -> bool:
    """Whether it is the member `name` of the configured cluster who answers."""
    return isinstance(answer, Answer) and (answer.cluster_id, answer.name) == (config.cluster.id, name)


def judge_peer(config: Config, name: str, answer: Answer | Silence) -> Finding:
    """Whether `answer` is that of the member `name`."""
    address = config.cluster.members[name]
    title, where = f"peer {name}", f"{address}: "
    if isinstance(answer, Silence):
        if answer.is_refused:
            return warning(title, where + answer.reason, f"Start {name}, or correct its address here if it runs")
        if answer.is_other:
            advice = f"See what runs there: a node that hangs is silent, too. Or correct cluster.members.{name}"
            return problem(title, where + answer.reason, advice)
        return problem(title, where + answer.reason, f"Correct cluster.members.{name}, or see to the network and its firewalls")
    if answer.cluster_id != config.cluster.id:
        found = f"{where}node {answer.name} of cluster {answer.cluster_id}, not of {config.cluster.id}"
        return problem(title, found, f"Correct cluster.members.{name} or cluster.id: nodes of two clusters refuse each other")
    if answer.name != name:
        found = f"{where}answers as {answer.name}"
        return problem(title, found, "Correct cluster.members: names and addresses are the same on all nodes")
    if differences := list(_differences(config, answer)):
        return problem(title, f"{where}{'; '.join(differences)}", "Make [cluster] the same on all nodes, and restart them")
    what = f"{where}kvnode {answer.version}, answers in {answer.round_trip * 1000:.1f} ms"
    if answer.version != __version__:
        return ok(title, f"{what}; this is {__version__}", "Different releases work together while an upgrade rolls")
    return ok(title, what)


def _differences(config: Config, answer: Answer) -> Iterator[str]:
    """What its [cluster] says otherwise."""
    for member in sorted({*config.cluster.members, *answer.members}):
        ours, theirs = config.cluster.members.get(member, "no member"), answer.members.get(member, "no member")
        if ours != theirs:
            yield f"its cluster.members.{member} is {theirs}, here it is {ours}"
    if answer.shards != config.cluster.shards:
        yield f"its cluster.shards is {answer.shards}, here it is {config.cluster.shards}"


def judge_clocks(max_clock_skew_ms: int, answers: Mapping[str, Answer]) -> Finding:
    """Whether the peers' clocks are near enough to this one's; what a round trip leaves open counts for them."""
    if not answers:
        return skipped(CLOCKS, "no peer answers")
    shown, worst = [], 0.0
    for name, answer in answers.items():
        ahead_ms, open_ms = answer.clock_ahead * 1000, answer.round_trip * 1000 / 2 + 1
        shown.append(f"{name} {ahead_ms:+.0f} ms (±{open_ms:.0f})")
        worst = max(worst, abs(ahead_ms) - open_ms)
    what = f"{', '.join(shown)}; clock.max_clock_skew_ms is {max_clock_skew_ms}"
    advice = "See on each host whether a time service runs: `timedatectl`, `chronyc tracking`"
    if worst > max_clock_skew_ms:
        return problem(CLOCKS, f"{what}: eventual writes of the node ahead are refused by the others", advice)
    if worst > max_clock_skew_ms / 2:
        return warning(CLOCKS, f"{what}: more than half of that", advice)
    return ok(CLOCKS, what)
