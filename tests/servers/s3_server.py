"""A simulated S3 on loopback: moto's server, with a new bucket's access rules and planned faults."""

import threading
from collections.abc import Callable, Iterable
from typing import Any

import boto3
import pytest
from moto.moto_server import werkzeug_app
from werkzeug.serving import make_server

from tests.servers.label_studio_server import free_port

BUCKET = "images"
DENIED = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
BUSY = b"<?xml version='1.0'?><Error><Code>ServiceUnavailable</Code><Message>Please try again</Message></Error>"
KEY = "reviewer"


class S3:
    """A server with :data:`BUCKET`, which has no CORS rules; the key :data:`KEY` may do everything."""

    def __init__(self) -> None:
        self.written: list[str] = []
        """Paths of the PUT requests, in order."""
        self.puts_left: float = float("inf")
        """Number of PUT requests until the server answers 503."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(werkzeug_app, "DISABLE_GLOBAL_CORS", True)
            self._app = werkzeug_app.DomainDispatcherApplication(werkzeug_app.create_backend_app)
            self._server = make_server("127.0.0.1", free_port(), self._answer, threaded=True)
            self._thread = threading.Thread(target=self._server.serve_forever)
            self._thread.start()
            self.url = f"http://127.0.0.1:{self._server.server_port}"
            self.variables = {
                "AWS_ENDPOINT_URL": self.url,
                "AWS_ACCESS_KEY_ID": KEY,
                "AWS_SECRET_ACCESS_KEY": "secret",
                "AWS_REGION": "us-east-1",
                "AWS_EC2_METADATA_DISABLED": "true",
                "AWS_CONFIG_FILE": "/dev/null",
                "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            }
            self.client: Any = boto3.client(
                "s3",
                endpoint_url=self.url,
                aws_access_key_id=KEY,
                aws_secret_access_key="secret",
                region_name="us-east-1",
            )
            self.client.create_bucket(Bucket=BUCKET)

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def names(self, prefix: str) -> set[str]:
        """Return the object names below ``prefix``."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{prefix}/")
        return {item["Key"].removeprefix(f"{prefix}/") for page in pages for item in page.get("Contents", [])}

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        signed = f"{environ.get('HTTP_AUTHORIZATION', '')}{environ['QUERY_STRING']}"
        if f"Credential={KEY}" not in signed:
            start_response("403 Forbidden", [("Content-Type", "application/xml")])
            return [DENIED]
        if environ["REQUEST_METHOD"] == "PUT":
            if self.puts_left <= 0:
                start_response("503 Service Unavailable", [("Content-Type", "application/xml")])
                return [BUSY]
            self.puts_left -= 1
            self.written.append(environ["PATH_INFO"])
        return self._app(environ, start_response)
