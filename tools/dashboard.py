"""Writes the Grafana dashboard, `monitoring/grafana/kvnode.json`: a dashboard as JSON is too long to be kept by hand.

    python tools/dashboard.py [--check]

`--check` writes nothing and fails if the file is old. For Grafana 10 and later; the data source is chosen on the dashboard.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.dashboard_panels import SECTIONS, Panel

FILE = Path(__file__).resolve().parent.parent / "monitoring" / "grafana" / "kvnode.json"
SCHEMA_VERSION = 39
"""Of Grafana 10.4; later ones migrate it by themselves."""
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24
"""Of Grafana's grid."""


def dashboard() -> dict[str, Any]:
    """The whole."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, section in SECTIONS.items():
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "panels": [],
                "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1},
            }
        )
        x, y = 0, y + 1
        height = 4 if section[0].kind == "stat" else 8
        for panel in section:
            if x + panel.width > WIDTH:
                x, y = 0, y + height
            panels.append(drawn(panel, len(panels) + 1, {"x": x, "y": y, "w": panel.width, "h": height}))
            x += panel.width
        y += height
    return {
        "uid": "kvnode",
        "title": "kvnode",
        "description": "A kvnode cluster. What each metric means: docs/metrics.md.",
        "tags": ["kvnode"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "",
        "fiscalYearStartMonth": 0,
        "liveNow": False,
        "links": [],
        "annotations": {"list": []},
        "templating": {"list": variables()},
        "panels": panels,
    }


def variables() -> list[dict[str, Any]]:
    """What is chosen at the top: the data source, the job, the nodes."""
    common = {"hide": 0, "skipUrlSync": False, "options": []}
    jobs = "label_values(kvnode_build_info, job)"
    instances = 'label_values(kvnode_build_info{job="$job"}, instance)'
    asked = {"type": "query", "datasource": SOURCE, "refresh": 2, "regex": "", "sort": 1, "current": {}, **common}
    return [
        {
            "name": "datasource",
            "label": "Data source",
            "type": "datasource",
            "query": "prometheus",
            "queryValue": "",
            "refresh": 1,
            "regex": "",
            "multi": False,
            "includeAll": False,
            "current": {},
            **common,
        },
        {
            "name": "job",
            "label": "Job",
            "definition": jobs,
            "query": {"query": jobs, "refId": "job", "qryType": 1},
            "multi": False,
            "includeAll": False,
            **asked,
        },
        {
            "name": "instance",
            "label": "Node",
            "definition": instances,
            "query": {"query": instances, "refId": "instance", "qryType": 1},
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            **asked,
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        },
    ]


def drawn(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    """A panel as Grafana has it."""
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0, "mappings": [], "color": {"mode": "palette-classic"}}
    steps = [{"color": color, "value": value} for color, value in panel.thresholds or (("green", None),)]
    defaults["thresholds"] = {"mode": "absolute", "steps": steps}
    options: dict[str, Any]
    if panel.kind == "stat":
        defaults["color"] = {"mode": "thresholds"}
        options = {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "value",
            "graphMode": "area",
            "justifyMode": "auto",
            "orientation": "auto",
            "textMode": "auto",
        }
    else:
        defaults["custom"] = {
            "drawStyle": "line",
            "lineInterpolation": "linear",
            "lineWidth": 1,
            "fillOpacity": 20 if panel.stacked else 0,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if panel.thresholds else "off"},
        }
        options = {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + at),
                "datasource": SOURCE,
                "editorMode": "code",
                "expr": query.expr,
                "legendFormat": query.legend or "__auto",
                "range": True,
                "instant": False,
            }
            for at, query in enumerate(panel.queries)
        ],
    }


def text() -> str:
    """The file's content."""
    return json.dumps(dashboard(), indent=2) + "\n"


def main(arguments: list[str]) -> int:
    """Write, or check; the exit status."""
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    if not arguments:
        FILE.write_text(text(), encoding="utf-8")
    elif FILE.read_text(encoding="utf-8") != text():
        print(f"{FILE.name} is not what tools/dashboard.py writes; run python tools/dashboard.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
