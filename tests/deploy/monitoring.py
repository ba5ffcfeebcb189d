"""Dashboard, alerts and scrape configuration, tested with a Prometheus that scrapes a gateway under load.

    monitoring.py BINARY [SECONDS PAGE]

With PAGE the panels of the dashboard are plotted into that HTML file after so many seconds; docs/dashboard.png is a
browser's picture of one.
"""
import contextlib, json, math, os, pathlib, shutil, subprocess, sys, tempfile, time, urllib.parse, urllib.request
from prometheus_client.parser import text_string_to_metric_families
from harness import PATIENCE, ROOT, eventually, isolate, metrics

DASHBOARD = json.loads((ROOT / "docs/grafana.json").read_text())
DEPLOY = ROOT / "examples/deploy"
VARIABLES = {"CALLBACK_URL": "http://127.0.0.1:8000/callback", "INTERNAL_PORT": "3001", "INTERNAL_TOKEN": "s3cret",
             "LISTEN_ADDRESS": "127.0.0.1", "HEARTBEAT_INTERVAL_SECONDS": "2", "CALLBACK_TIMEOUT_SECONDS": "1",
             "CALLBACK_CONCURRENCY": "8", "MAX_PENDING_BYTES": "300000", "LOG_LEVEL": "off"}


def fetch(url):
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        return answer.read().decode()


def answers(url):
    with contextlib.suppress(OSError):
        return fetch(url)


def ask(what, **parameters):
    answer = json.loads(fetch(f"http://127.0.0.1:9090/api/v1/{what}?" + urllib.parse.urlencode(parameters)))
    assert answer["status"] == "success", answer
    return answer["data"]


def values(query):
    return [float(series["value"][1]) for series in ask("query", query=query)["result"]]


def targets():
    """Each query of the dashboard with its panel, as Grafana would send it with everything selected."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            yield panel, target, filled(target["expr"])


def filled(query):
    # Grafana's own interval is four scrapes, here of a second each.
    for name, value in (("$__rate_interval", "5s"), ("$__range", "5m"), ("$job", ".*"), ("$instance", ".*")):
        query = query.replace(name, value)
    assert "$" not in query, query
    return query


def start(ends, command, variables=None):
    process = subprocess.Popen(command, env=variables, stderr=subprocess.DEVNULL)
    ends.callback(process.wait)
    ends.callback(process.terminate)


def passed(what):
    print(f"monitoring: {what}", flush=True)


def exposition_is_understood():
    text = metrics()
    subprocess.run(["promtool", "check", "metrics"], input=text, text=True, check=True)
    families = list(text_string_to_metric_families(text))
    samples = sum(len(family.samples) for family in families)
    assert samples == sum(not line.startswith("#") for line in text.splitlines())
    passed(f"promtool and prometheus_client understand {len(families)} families, {samples} samples")


def every_query_finds_data():
    queries = list(targets())
    for annotation in DASHBOARD["annotations"]["list"]:
        ask("query", query=filled(annotation["expr"]))
    for panel, _, query in queries:
        what = f"data for {panel['title']}, {query}"
        eventually(what, lambda: (found := values(query)) and not any(map(math.isnan, found)))
    passed(f"{len(queries)} queries of {len({panel['id'] for panel, _, _ in queries})} panels find data")


def every_metric_is_shown():
    shown = " ".join(query for _, _, query in targets())
    # Prometheus's own samples of a scrape are not the gateway's.
    names = {name for name in ask("label/__name__/values", **{"match[]": '{job="ssegateway"}'})
             if name.startswith(("ssegateway_", "process_"))}
    background = {"ssegateway_build_info", "process_start_time_seconds", "process_threads",
                  "process_virtual_memory_bytes"}
    missing = {name for name in names if name not in shown and not name.endswith(("_sum", "_count"))} - background
    assert len(names) > 30 and not missing, missing


def rules_are_loaded():
    rules = ask("rules")["groups"][0]["rules"]
    assert rules and all(rule["health"] == "ok" for rule in rules), rules
    passed(f"{len(rules)} alerting rules are evaluated")


def plot(page, seconds):
    """Every panel's series, and the page's settings for drawing them."""
    end = time.time()
    for panel, target, query in targets():
        data = ask("query_range", query=query, start=end - seconds, end=end, step=max(1, seconds // 300))
        target["series"] = [{"labels": series["metric"], "values": series["values"]} for series in data["result"]]
    template = (ROOT / "tests/deploy/dashboard.html").read_text()
    pathlib.Path(page).write_text(template.replace("/*DASHBOARD*/", json.dumps(DASHBOARD)))


isolate()
work = pathlib.Path(tempfile.mkdtemp())
shutil.copy(DEPLOY / "alerts.yml", work)
(work / "ssegateway.token").write_text("s3cret")
config = (DEPLOY / "prometheus.yml").read_text()
assert "scrape_interval: 15s" in config
quick = config.replace("scrape_interval: 15s", "scrape_interval: 1s\n  evaluation_interval: 1s")
(work / "prometheus.yml").write_text(quick)
subprocess.run(["promtool", "check", "config", work / "prometheus.yml"], check=True, stdout=subprocess.DEVNULL)
with contextlib.ExitStack() as ends:
    ends.callback(shutil.rmtree, work)
    start(ends, [os.path.abspath(sys.argv[1])], VARIABLES)
    start(ends, ["prometheus", f"--config.file={work}/prometheus.yml", f"--storage.tsdb.path={work}/data",
                 "--web.listen-address=127.0.0.1:9090"])
    eventually("the gateway is ready", lambda: answers("http://127.0.0.1:3000/readyz"))
    eventually("Prometheus is ready", lambda: answers("http://127.0.0.1:9090/-/ready"))
    day, page = (int(sys.argv[2]), sys.argv[3]) if len(sys.argv) > 2 else (60, None)
    start(ends, [sys.executable, "-B", ROOT / "tests/deploy/load.py", str(day)])
    began = time.monotonic()
    for query in ("ssegateway_slow_readers_dropped_total", "ssegateway_callback_failures_total",
                  "rate(ssegateway_disconnects_total[5s])"):
        eventually(query, lambda: any(value > 0 for value in values(query)))
    exposition_is_understood()
    every_query_finds_data()
    every_metric_is_shown()
    rules_are_loaded()
    if page:
        time.sleep(max(0, began + day - time.monotonic()))
        plot(page, day)
