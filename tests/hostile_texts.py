"""Text as hostile or unlucky people send it, and what must become of it."""

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466"  # 7 code points, one emoji

TAKEN: dict[str, str] = {
    "right-to-left override": "safe\u202egpj.exe",
    "isolates, not closed": "\u2066\u2067\u2068abc",
    "joiners": "a\u200db\u200cc\u200bd",
    "emoji of several code points": FAMILY * 40,
    "a flag of tags": "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "marks piled up": "e" + "\u0301" * 100,
    "decomposed": "Cafe\u0301 \u1112\u1161\u11ab \u212b",
    "beyond the basic plane": "\U00020bb7\U0001d49c\U0010ffff",
    "no characters": "\ufffe\uffff\ufdd0",
    "a replacement character": "\ufffd",
    "a byte order mark": "\ufeffabc",
    "look-alikes": "\u0430dmin \u0391dmin \uff41dmin",
    "SQL": "'; DROP TABLE tweets; -- \" OR 1=1 /* */ $$ %s %(id)s :id ? \\",
    "a script": "<script>alert(1)</script><img src=x onerror=alert(1)>&lt;&#x27;",
    "templates": "{{7*7}} ${7*7} #{7*7} <%= 7*7 %> ${jndi:ldap://a.example/x} `id` $(id)",
    "escapes": r"\u0000 \x00 %00 &#0; \ud800 \n \" \\",
    "JSON": '"},"id":"1","content":"x',
    "JSON's own line ends": "a\u2028b\u2029c",
    "a header": "x: y\r\nset-cookie: a=b",
    "Valkey": "*1\r\n$8\r\nFLUSHALL\r\n",
    "a path": "../../../../etc/passwd",
}
"""Tweets and bios that are stored in NFC and returned exactly so."""

REFUSED: dict[str, str] = {
    "NUL": "a\x00b",
    "escape": "a\x1b[2Jb",
    "C1": "a\x9bb",
    "nothing": "",
    "nothing to be seen": "\u200b\u2060\u3164\u00a0",
    "one too many": "a" * 281,
    "280 emoji of several code points": FAMILY * 280,
    "a mountain of marks": "e" + "\u0301" * 60_000,
}
"""Tweets that are refused, with the field and the reason."""

NOT_ONE_LINE = (
    "right-to-left override",
    "isolates, not closed",
    "JSON's own line ends",
    "a header",
    "Valkey",
    "emoji of several code points",
)
"""What of TAKEN is no display name; the last one is too long for one."""

LOOK_ALIKE_NAMES = (
    "\u0430dmin",  # Cyrillic
    "\u0391dmin",  # Greek
    "\uff41dmin",  # full width
    "\u212aelvin",  # the sign of degrees, which NFC makes a K
    "adm\u0131n",  # without a dot
    "ad\u200dmin",
    "admin\u0301",
    "\u202eadmin",
)
"""No usernames, nor anything that finds one."""

LONE_SURROGATE = rb"\ud83d"
"""In JSON."""
BROKEN_UTF8 = (b"\xed\xa0\xbd", b"\xff", b"\xc0\x80", b"\xf4\x90\x80\x80")
"""A lone surrogate, no UTF-8 at all, NUL in two bytes, and what is past the last character."""
