"""GET /: what a person sees who opens the server's address in a browser.

In: Services, the name the server was called by. Out: a page of HTML without scripts. Whoever needs
a key to be told which models there are is not told here.
"""

from __future__ import annotations

from html import escape

from headrace.server.openai_models import describe_model
from headrace.server.replies import JsonReply
from headrace.server.services import Services, Visit

_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}
# Links are relative: a proxy may have put the server under a path of its own.
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>headrace</title>
<style>body {{ font: 1rem/1.5 sans-serif; max-width: 45rem; margin: 2rem auto }}</style>
<h1>headrace {version}</h1>
<p>This address is for programs. OpenAI's clients take <code>{address}/v1</code> as their base URL,
Anthropic's <code>{address}</code>.</p>
<p>{access}</p>
{models}<p><a href="v1/models">v1/models</a>, <a href="health">health</a>,
<a href="metrics">metrics</a>, <a href="version">version</a>,
<a href="openapi.json">openapi.json</a>. Every route, field and error is in
<code>docs/reference/http-api.md</code> of the sources, which <code>docs/index.md</code> begins.</p>
</html>
"""
_OPEN = "No key is needed."
_CLOSED = (
    "Every call needs a key: <code>Authorization: Bearer KEY</code> or <code>x-api-key: KEY</code>."
    " Who runs this server makes one with <code>headrace keys create NAME</code>."
)


async def report_front_page(services: Services, visit: Visit) -> JsonReply:
    """Where clients find the server and, where nobody needs a key, what is served."""
    config = services.config
    is_open = services.accounts.keys.is_open and not config.require_key
    host = visit.headers.get("host") or f"{config.host}:{config.port}"
    page = _PAGE.format(
        version=escape(services.version),
        address=escape(f"http{'s' if config.ssl_certfile else ''}://{host}"),
        access=_OPEN if is_open else _CLOSED,
        models=_models(services) if is_open else "",
    )
    return JsonReply(page.encode(), headers=_HEADERS, content_type="text/html; charset=utf-8")


def _models(services: Services) -> str:
    cards = (describe_model(services, name, info) for name, info in services.models().items())
    rows = (f"<li><code>{escape(card.id)}</code> {escape(card.status)}</li>\n" for card in cards)
    return f"<p>Models:</p>\n<ul>\n{''.join(rows)}</ul>\n"
