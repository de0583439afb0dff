"""EC2's notice reaches Ray: a metadata server of the test's own, with the documented requests and answers."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bsp_platform.work.cluster.spot_notice import metadata, seconds_left, watch


@pytest.fixture
def server():
    """Answers as EC2's metadata service version 2: nothing without a token got by PUT with a time to live."""

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self):
            good = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
            self._answer(200 if good else 400, "secret")

        def do_GET(self):
            http.asked.append(self.path)
            if self.headers["X-aws-ec2-metadata-token"] != "secret":
                return self._answer(401, "")
            answers = http.answers.get(self.path.removeprefix("/latest/meta-data/"), [])
            answer = answers.pop(0) if len(answers) > 1 else answers[0] if answers else None
            if isinstance(answer, int):
                return self._answer(answer, "")
            return self._answer(404 if answer is None else 200, answer or "")

        def _answer(self, status, text):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.asked, http.answers = [], {}
    http.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    yield http
    http.shutdown()
    thread.join()
    http.server_close()


NOTICE = '{"action": "terminate", "time": "2026-01-02T03:04:05Z"}'


def test_seconds_left_is_the_time_until_the_notice_s():
    assert seconds_left(NOTICE, datetime(2026, 1, 2, 3, 2, 5, 500_000, tzinfo=UTC)) == 119
    assert seconds_left(NOTICE, datetime(2026, 1, 2, 3, 5, tzinfo=UTC)) == 0


def test_a_spot_machine_is_drained_once_when_the_notice_comes(server):
    """The notice is absent (404) at first, and one answer is an error: neither ends the watch."""
    server.answers = {"instance-life-cycle": ["spot"], "spot/instance-action": [None, 500, None, NOTICE]}
    drained = []
    told = watch(server.url, drain=drained.append, poll_s=0.01)
    assert drained == [0]  # the date is past
    assert server.asked.count("/latest/meta-data/spot/instance-action") == 4
    assert NOTICE in told


def test_other_machines_have_nothing_to_wait_for(server):
    server.answers = {"instance-life-cycle": ["on-demand"]}
    assert "on-demand, not spot" in watch(server.url, drain=pytest.fail)
    assert "not a machine at EC2" in watch("http://127.0.0.1:9", drain=pytest.fail)


def test_a_refused_request_is_an_error_not_an_absence(server):
    server.answers = {"x": [503]}
    with pytest.raises(OSError, match="503"):
        metadata("x", server.url)
    assert metadata("y", server.url) is None
