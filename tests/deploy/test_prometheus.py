"""deploy/prometheus and deploy/grafana: promtool runs the alerts, and every query is held against a running service."""

import json
import re
import subprocess

import promql_parser
import pytest
import yaml
from alerts import CASES
from service import REPO, TOOLS
from watched import exercised

RULES = REPO / "deploy" / "prometheus" / "tokenmint.rules.yaml"
DASHBOARD = REPO / "deploy" / "grafana" / "tokenmint.json"
ALERTS = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
# What Prometheus itself says of a target, and labels that it gives to every series.
ABOUT_TARGETS = {"up": set()}
OF_TARGETS = {"job", "instance"}


def promtool(*arguments):
    ran = subprocess.run([TOOLS / "bin" / "promtool", *arguments], capture_output=True, timeout=60)
    assert ran.returncode == 0, ran.stdout.decode() + ran.stderr.decode()


def test_promtool_reads_the_rules():
    promtool("check", "rules", RULES)


def test_every_alert_fires_when_it_should_and_not_when_it_shouldnt(tmp_path):
    """tests/deploy/alerts.py says when. promtool evaluates them minute by minute, `for` included."""

    def asked(case):
        samples = []
        if case.fires is not None:
            severity = next(rule["labels"]["severity"] for rule in ALERTS if rule["alert"] == case.alert)
            labels = {"alertname": case.alert, "alertstate": "firing", "severity": severity} | case.fires
            samples = [{"labels": "ALERTS{" + ",".join(f'{k}="{v}"' for k, v in labels.items()) + "}", "value": 1}]
        expr = f'ALERTS{{alertname="{case.alert}",alertstate="firing"}}'
        return {"expr": expr, "eval_time": f"{case.at}m", "exp_samples": samples}

    tests = [
        {
            "name": f"{case.alert} {'fires' if case.fires is not None else 'is quiet'}: {case.series}",
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
            "promql_expr_test": [asked(case)],
        }
        for case in CASES
    ]
    file = tmp_path / "alerts.test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    promtool("test", "rules", file)


def test_every_alert_is_tried_both_ways():
    names = {rule["alert"] for rule in ALERTS}
    assert {case.alert for case in CASES if case.fires is not None} == names
    assert {case.alert for case in CASES if case.fires is None} == names


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_how_bad_it_is_what_to_do_and_where(rule):
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    notes = rule["annotations"]
    assert notes["summary"] and len(notes["description"]) > 80
    page, anchor = notes["runbook"].split("#")
    headings = re.findall(r"^#+ (.+)$", (REPO / page).read_text(), re.MULTILINE)
    assert anchor in [re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_the_dashboard_shows_what_the_alerts_go_by():
    assert {name for rule in ALERTS for name in named(rule["expr"])} <= {
        name for query in dashboard_queries() for name in named(query)
    }


def test_the_dashboard_is_whole():
    board = json.loads(DASHBOARD.read_text())
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    variables = {variable["name"] for variable in board["templating"]["list"]}
    taken = set()
    for panel in panels:
        if panel["type"] == "row":
            continue
        assert panel["description"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells
        for target in panel["targets"]:
            assert set(re.findall(r"\$\{?(\w+)", target["expr"])) <= variables | {"__rate_interval"}


@pytest.fixture(scope="module")
def scraped(binary, tmp_path_factory):
    """/metrics of a service that has done all that it counts."""
    return exercised(binary, tmp_path_factory.mktemp("watched"))


@pytest.fixture(scope="module")
def exposed(scraped):
    """Metric -> its labels."""
    families = {}
    for line in scraped.splitlines():
        if line.startswith("# TYPE"):
            families[line.split()[2]] = set()
        elif line and not line.startswith("#"):
            name, labels = re.fullmatch(r"(\w+)(?:\{(.*)\})? \S+", line).groups()
            families.setdefault(name, set()).update(re.findall(r'(\w+)="', labels or ""))
    # Of a histogram, its series are what queries name.
    return {name: labels for name, labels in families.items() if f"{name}_bucket" not in families}


def test_every_query_asks_for_what_the_service_exposes(exposed):
    """A metric or label that was renamed, or never was, leaves an alert silent and a panel empty for ever."""
    queries = [rule["expr"] for rule in ALERTS] + dashboard_queries()
    assert len(queries) > len(ALERTS) + 20
    for query in queries:
        labels_of(promql_parser.parse(query), exposed | ABOUT_TARGETS)


def test_a_query_for_a_label_that_isnt_there_would_be_noticed(exposed):
    for wrong in ["tokenmint_panic_total", "sum by (kid) (tokenmint_panics_total)", 'tokenmint_connections{port="1"}']:
        with pytest.raises(AssertionError):
            labels_of(promql_parser.parse(wrong), exposed)


def test_every_template_names_a_label_that_its_alert_has(exposed):
    for rule in ALERTS:
        has = labels_of(promql_parser.parse(rule["expr"]), exposed | ABOUT_TARGETS)
        asked = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
        assert asked <= has, rule["alert"]


def test_the_reference_has_every_metric_with_its_type_and_labels_and_no_other(scraped, exposed):
    page = (REPO / "docs/reference/metrics.md").read_text()
    entry = r"^### `(tokenmint_\w+)`\n\n[^#]+?\n\n- Type: (\w+)\n- Labels: (.*)$"
    entries = re.findall(entry, page, re.MULTILINE)
    assert len(entries) == page.count("- Type: ")
    documented = {name: set(re.findall(r"`(\w+)`", labels)) for name, _, labels in entries}
    exposed_families = {}
    for name, labels in exposed.items():
        if name.startswith("tokenmint_"):
            family = re.sub(r"_(bucket|sum|count)$", "", name)
            exposed_families.setdefault(family, set()).update(labels - {"le"})
    # Those are there only where a Redis or `check_session` is configured, Intel's library has failed, or Salesforce or a budget says no;
    # tests/service has them all.
    elsewhere = (
        "tokenmint_shared_cache_",
        "tokenmint_signing_batch_faults_",
        "tokenmint_exchanges_not_sent_",
        "tokenmint_rejected_tokens_kept_",
        "tokenmint_session_checks_",
    )
    documented = {name: labels for name, labels in documented.items() if not name.startswith(elsewhere)}
    assert documented == exposed_families
    types = dict(re.findall(r"^# TYPE (tokenmint_\w+) (\w+)$", scraped, re.MULTILINE))
    assert types == {name: kind for name, kind, _ in entries if name in types}


def dashboard_queries():
    board = json.loads(DASHBOARD.read_text())
    macros = {"$__rate_interval": "5m", '"$job"': '"tokenmint"', '"$instance"': '".*"'}
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    for macro, value in macros.items():
        queries = [query.replace(macro, value) for query in queries]
    return queries


def named(query):
    return set(re.findall(r"\btokenmint_\w+|\bup\b", query))


def labels_of(expression, exposed):
    """The labels that a query's result may have. Fails where it asks for a metric or label that isn't exposed."""
    p = promql_parser
    if isinstance(expression, p.ParenExpr | p.UnaryExpr | p.SubqueryExpr):
        return labels_of(expression.expr, exposed)
    if isinstance(expression, p.MatrixSelector):
        return labels_of(expression.vector_selector, exposed)
    if isinstance(expression, p.VectorSelector):
        assert expression.name in exposed, f"no metric {expression.name}"
        labels = exposed[expression.name] | OF_TARGETS
        for matcher in expression.matchers.matchers:
            assert matcher.name in labels, f"{expression.name} has no label {matcher.name}"
        return labels
    if isinstance(expression, p.AggregateExpr):
        inner = labels_of(expression.expr, exposed)
        if expression.modifier is None:
            return set() if str(expression.op) not in {"topk", "bottomk"} else inner
        by = set(expression.modifier.labels)
        assert by <= inner, f"{expression}: {by - inner} isn't a label of that"
        return by if "By" in str(expression.modifier.type) else inner - by
    if isinstance(expression, p.BinaryExpr):
        left, right = (labels_of(side, exposed) for side in [expression.lhs, expression.rhs])
        modifier = expression.modifier
        if modifier is not None and modifier.matching is not None:
            on = set(modifier.matching.labels)
            assert on <= left & right, f"{expression}: {on - left & right} isn't on both sides"
        return left or right
    if isinstance(expression, p.Call):
        return set().union(*(labels_of(argument, exposed) for argument in expression.args))
    assert isinstance(expression, p.NumberLiteral | p.StringLiteral), type(expression)
    return set()
