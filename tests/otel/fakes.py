"""A collector that keeps what it is sent, decoded by OpenTelemetry's own package, and a Salesforce that logs everybody in."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Fake:
    """Answers POST on loopback, from threads of its own, until the block that opened it ends."""

    def __enter__(self):
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                kind, answer = fake.answer(self.path, self.headers, body)
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


class Salesforce(Fake):
    TOKEN = "00D000000000001!access.token.that.no.span.holds"

    def __init__(self):
        self.traceparents = []

    def answer(self, path, headers, body):
        self.traceparents.append(headers.get("traceparent"))
        answer = {"access_token": self.TOKEN, "token_type": "Bearer", "instance_url": self.url}
        return "application/json", json.dumps(answer).encode()


class Collector(Fake):
    def __init__(self):
        self.bodies, self.paths, self.resources, self.keys = [], [], [], set()

    def answer(self, path, headers, body):
        self.paths.append((path, headers["Content-Type"]))
        self.keys.add(headers["api-key"])
        self.bodies.append(body)
        return "application/x-protobuf", b""

    def spans(self):
        """All so far, in the order of their beginnings."""
        found = []
        for body in self.bodies:
            for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.resources.append(values(of_resource.resource.attributes))
                found += [Read(span) for of_scope in of_resource.scope_spans for span in of_scope.spans]
        return sorted(found, key=lambda span: span.start)

    def wait_for(self, count):
        """That many spans, and no more."""
        patience = time.monotonic() + 10
        while len(self.spans()) < count:
            assert time.monotonic() < patience, f"{len(self.spans())} spans of {count}: {self.spans()}"
            time.sleep(0.02)
        # What is too much may come a batch later.
        time.sleep(0.3)
        spans = self.spans()
        assert len(spans) == count, spans
        return spans


class Read:
    """A span as its reader has it."""

    def __init__(self, span):
        self.name, self.kind = span.name, Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower()
        self.trace, self.id, self.parent = span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()
        self.attributes = values(span.attributes)
        self.failed = span.status.code == span.status.STATUS_CODE_ERROR
        self.start, self.end = span.start_time_unix_nano, span.end_time_unix_nano
        self.state = span.trace_state

    def __repr__(self):
        return f"{self.kind} {self.name} {self.trace}/{self.parent}/{self.id} {self.attributes}"


def values(attributes):
    return {attribute.key: getattr(attribute.value, attribute.value.WhichOneof("value")) for attribute in attributes}
