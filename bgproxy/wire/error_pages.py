"""What a visitor reads when the proxy itself answers: the built-in pages, and an operator's own in their place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from bgproxy.core.error_pages import KINDS, Template, kind_of

_STYLE: Final = (
    ":root{color-scheme:light dark;--ink:#1b1b1f;--soft:#5b5b66;--paper:#fff;--line:#d9d9e0}"
    "@media(prefers-color-scheme:dark){:root{--ink:#e9e9ec;--soft:#a9a9b4;--paper:#18181b;--line:#3a3a42}}"
    "body{margin:0;background:var(--paper);color:var(--ink);font:1.125rem/1.5 system-ui,sans-serif}"
    "main{max-width:36rem;margin:12vh auto 2rem;padding:0 1.5rem}"
    "h1{font-size:1.75rem;line-height:1.2;margin:0 0 1rem}"
    "dl{margin:2rem 0 0;padding:1rem 0 0;border-top:1px solid var(--line);color:var(--soft);font-size:.9375rem}"
    "dd{margin:0 0 .75rem;overflow-wrap:anywhere}"
)
# Of the style alone: nothing else in the page may do anything. A test holds it to the style.
_STYLE_SHA256: Final = "xWAZ3xQs6em/sPo2a4IVkr0MtrFNDnr9X+Ui/vAl3y4="
_LOCKED: Final = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

BUILT_IN: Final = {
    "html": f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{{{status}}}} {{{{phrase}}}}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{{{{status}}}} {{{{phrase}}}}</h1>
<p>{{{{sentence}}}}</p>
<p>{{{{advice}}}}</p>
<dl>
<dt>For whoever runs this site</dt>
<dd>{{{{detail}}}} ({{{{reason}}}})</dd>
<dt>Request id</dt>
<dd><code>{{{{request_id}}}}</code></dd>
</dl>
</main>
</body>
</html>
""",
    "json": """{"type": "about:blank", "title": "{{phrase}}", "status": {{status}}, "code": "{{reason}}", \
"detail": "{{detail}}", "hint": "{{advice}}", "request_id": "{{request_id}}"}
""",
    "txt": "{{status}} {{phrase}}: {{detail}} (request {{request_id}})\n",
}

CONTENT_TYPES: Final = {
    "html": b"text/html; charset=utf-8",
    "json": b"application/problem+json",
    "txt": b"text/plain; charset=utf-8",
}
_NO_CONTENT: Final = f"default-src 'none'; {_LOCKED}".encode()
_BUILT_IN_POLICY: Final = f"default-src 'none'; style-src 'sha256-{_STYLE_SHA256}'; {_LOCKED}".encode()
# An operator's page may bring its own style and pictures, inside itself: while an error is shown, whatever it would
# fetch may be down as well.
_OWN_POLICY: Final = (
    f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:; {_LOCKED}"
).encode()

_TRY_AGAIN: Final = "Wait a moment and try again. If it stays like this, tell whoever runs the site the request id."
_ASK: Final = "Go back and try another way. If you came by a link of this site, tell whoever runs it the request id."
_WORDS: Final = {
    200: ("This is as far as the request was meant to go.", "Ask again without Max-Forwards to reach the site."),
    400: ("Your browser or app sent a request that could not be understood.", _ASK),
    405: ("What you tried to do is not possible here.", _ASK),
    408: ("Your request took too long to arrive.", "Check your connection and try again."),
    413: ("What you sent is larger than this site takes.", "Send something smaller, or send it in parts."),
    414: ("The address that you asked for is too long.", _ASK),
    417: ("Your app expects something that is not possible here.", _ASK),
    421: ("The site that you asked for is not served here in this way.", _ASK),
    431: (
        "Your browser sent more along with its request than this site takes. Mostly these are old cookies.",
        "Delete the cookies of this site and try again.",
    ),
    501: ("What you tried to do is not possible here.", _ASK),
    502: ("This site has a problem of its own right now.", _TRY_AGAIN),
    503: ("This site has too much to do, or is being worked on, right now.", _TRY_AGAIN),
    504: ("This site took too long to answer.", _TRY_AGAIN),
    505: ("Your browser or app speaks a version of HTTP that is not spoken here.", "Use a current browser or app."),
}


def words(status: int) -> tuple[str, str]:
    """A plain sentence for a visitor, and what they can do."""
    return _WORDS[status] if status in _WORDS else _WORDS[400 if status < 500 else 502]


class ErrorPages:
    """`files` are an operator's own pages, name → text; ValueError where one of them is not usable."""

    def __init__(self, files: Mapping[str, str] | None = None) -> None:
        self._built_in = {kind: (Template(kind, BUILT_IN[kind]), _policy(kind, own=False)) for kind in KINDS}
        self._own = {
            name: (Template(kind_of(name), text), _policy(kind_of(name), own=True))
            for name, text in (files or {}).items()
        }

    def page(self, kind: str, status: int) -> tuple[Template, bytes]:
        """The most specific page of a kind, and the Content-Security-Policy that goes with it."""
        own = self._own
        if own and status >= 400:
            for stem in (str(status), f"{status // 100}xx", "error"):
                if found := own.get(f"{stem}.{kind}"):
                    return found
        return self._built_in[kind]


def _policy(kind: str, *, own: bool) -> bytes:
    if kind != "html":
        return _NO_CONTENT
    return _OWN_POLICY if own else _BUILT_IN_POLICY
