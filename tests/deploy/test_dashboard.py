"""The dashboard of Grafana: its form, and every query on Prometheus after it scraped a server."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode, urlsplit
from urllib.request import Request, urlopen

import pytest
import yaml
from scripts.grafana_dashboard import FILE, dashboard
from scripts.try_dockerfile import free_port

from tests.deploy.dashboard_schema import Dashboard, Place, Series
from tests.deploy.processes import program, serving

CONFIG = Path(__file__).parents[2] / "deploy/prometheus/prometheus.yml"
BOARD = Dashboard.model_validate_json(FILE.read_text(encoding="utf-8"))
SERIES = [panel for panel in BOARD.panels if isinstance(panel, Series)]
QUERIES = [
    pytest.param(target.expr, id=f"{panel.title}: {target.legendFormat}")
    for panel in SERIES
    for target in panel.targets
]
RATE = "10s"


def overlap(a: Place, b: Place) -> bool:
    across = a.x < b.x + b.w and b.x < a.x + a.w
    return across and a.y < b.y + b.h and b.y < a.y + a.h


def test_the_file_is_what_the_script_writes() -> None:
    assert json.loads(FILE.read_text(encoding="utf-8")) == dashboard()


def test_panels_have_places_and_names_of_their_own() -> None:
    places = [panel.gridPos for panel in BOARD.panels]
    assert not any(overlap(a, b) for a, b in combinations(places, 2))
    assert all(place.x + place.w <= 24 for place in places)
    assert len({panel.id for panel in BOARD.panels}) == len(BOARD.panels)
    assert len({panel.title for panel in BOARD.panels}) == len(BOARD.panels)
    for panel in SERIES:
        assert len({target.refId for target in panel.targets}) == len(panel.targets)


def test_queries_use_only_variables_that_exist() -> None:
    names = {f"${variable.name}" for variable in BOARD.templating.list} | {"$__rate_interval"}
    for panel in SERIES:
        for target in panel.targets:
            text = target.expr
            for name in names:
                text = text.replace(name, "")
            assert "$" not in text and "%" not in text


def test_prometheus_scrapes_the_default_port() -> None:
    [job] = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["scrape_configs"]
    assert job["metrics_path"] == "/metrics"
    assert job["static_configs"] == [{"targets": ["127.0.0.1:8000"]}]


@pytest.mark.slow
def test_prometheus_accepts_its_configuration() -> None:
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("needs promtool (apt install prometheus)")
    run = subprocess.run([promtool, "check", "config", CONFIG], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prometheus that has scraped a server before, during and after its work."""
    if (found := shutil.which("prometheus")) is None:
        pytest.skip("needs prometheus (apt install prometheus)")
    folder = tmp_path_factory.mktemp("prometheus")
    with serving("--target", "tiny", "--max-num-seqs", "1", "--max-queue", "0") as server:
        place = f"127.0.0.1:{free_port()}"
        command = [found, *options(folder, place, server)]
        with program(command, f"http://{place}/-/ready", folder / "log"):
            wait_until(place, "outrider:engine_heartbeat_age_seconds")
            work(server)
            time.sleep(4)
            work(server)
            wait_until(place, "outrider:disconnects_total > 0")
            time.sleep(3)
            yield place


def options(folder: Path, place: str, server: str) -> list[str]:
    """Write the configuration that ships, with this server and a short interval."""
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    config["global"]["scrape_interval"] = "1s"
    config["scrape_configs"][0]["static_configs"] = [{"targets": [urlsplit(server).netloc]}]
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    return [
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={place}",
    ]


def work(server: str) -> None:
    """Let a server answer, refuse a request because another runs, and lose that client."""
    for seed in range(3):
        assert ask(server, max_tokens=60, seed=seed, temperature=0).status == 200
    busy = HTTPConnection(urlsplit(server).netloc, timeout=60)
    body = json.dumps(body_of(max_tokens=1900, ignore_eos=True, stream=True))
    busy.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
    answer = busy.getresponse()
    assert answer.status == 200
    with pytest.raises(HTTPError, match="429"):
        ask(server, max_tokens=1)
    answer.close()
    busy.close()


def body_of(**more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Tell me a story about a king."}]
    return {"model": "tiny", "messages": messages} | more


def ask(server: str, **more: Any) -> Any:
    request = Request(f"{server}/v1/chat/completions", json.dumps(body_of(**more)).encode())
    request.add_header("content-type", "application/json")
    with urlopen(request, timeout=60) as answer:
        answer.read()
        return answer


def query(place: str, text: str) -> list[dict[str, Any]]:
    """Return the vector of a query now."""
    with urlopen(f"http://{place}/api/v1/query?{urlencode({'query': text})}", timeout=30) as got:
        found = json.load(got)
    assert found["status"] == "success"
    assert not found.get("warnings")
    return found["data"]["result"]


def wait_until(place: str, text: str) -> None:
    deadline = time.monotonic() + 60
    while not query(place, text):
        assert time.monotonic() < deadline, text
        time.sleep(0.5)


def with_values(text: str) -> str:
    """Put values in place of variables, as Grafana does."""
    text = text.replace("$__rate_interval", RATE)
    return text.replace("$model", ".*").replace("$instance", ".*")


@pytest.mark.slow
@pytest.mark.parametrize("text", QUERIES)
def test_a_query_has_data(prometheus: str, text: str) -> None:
    found = query(prometheus, with_values(text))
    assert found
    assert any(float(one["value"][1]) >= 0 for one in found)  # not NaN


@pytest.mark.slow
def test_variables_have_values(prometheus: str) -> None:
    [series] = query(prometheus, "outrider:num_requests_running")
    assert series["metric"]["model_name"] == "tiny"
    assert series["metric"]["instance"]


@pytest.mark.slow
def test_figures_are_plausible(prometheus: str) -> None:
    """Shares are at most 1, and there are as many tokens by source as written tokens."""
    for panel in SERIES:
        if panel.fieldConfig.defaults.max == 1:
            for target in panel.targets:
                values = [float(v["value"][1]) for v in query(prometheus, with_values(target.expr))]
                assert max(values) <= 1 + 1e-9, panel.title
    by_source = query(prometheus, "sum(outrider:tokens_by_source_total)")
    written = query(prometheus, "outrider:generation_tokens_total")
    assert by_source[0]["value"][1] == written[0]["value"][1]
