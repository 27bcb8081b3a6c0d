"""The web server's log: one line a request, with nothing in it that opens anything."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from gunicorn.glogging import Logger

from portal.settings.logs import HideTokens, hide_tokens

UNSAFE = re.compile(r"[^A-Za-z0-9.:\[\]_-]")


class AccessLogger(Logger):
    """gunicorn's logger, without query strings, tokens, cookies or whatever else a client may write."""

    access_fmt = error_fmt = "%(asctime)s %(levelname)s %(name)s %(message)s"
    datefmt = None

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        for logger in (self.error_log, self.access_log):
            for handler in logger.handlers:
                handler.addFilter(HideTokens())

    def access(self, resp: Any, req: Any, environ: dict[str, Any], request_time: timedelta) -> None:
        if not self.access_log_enabled or environ.get("PATH_INFO") in {"/healthz", "/metrics"}:
            return
        self.access_log.info(
            "request method=%s host=%s path=%s status=%s bytes=%s ms=%d client=%s",
            UNSAFE.sub("?", environ.get("REQUEST_METHOD", "-")),
            UNSAFE.sub("?", environ.get("HTTP_HOST", "-")),
            hide_tokens(quote(environ.get("PATH_INFO", ""), safe="/-._~@:")),
            str(resp.status).partition(" ")[0],
            getattr(resp, "sent", "-"),
            request_time / timedelta(milliseconds=1),
            UNSAFE.sub("?", environ.get("REMOTE_ADDR", "-") or "-"),
        )
