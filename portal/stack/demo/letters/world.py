"""Mail in many scripts and odd forms: everything that a list, a preview and a digest must show well."""

from __future__ import annotations

from base64 import b64encode

from portal.stack.demo.letters.make import Draft, File, Kind

WEBMAIL, ENGINEERS, HARBOUR, MILL = "198.51.100.81", "2001:db8:25::10", "198.51.100.60", "192.0.2.10"
JAPANESE = "見積書の件（至急ではありません）"
JAPANESE_WORD = "=?iso-2022-jp?b?" + b64encode(JAPANESE.encode("iso-2022-jp")).decode() + "?="
LONG = (
    "Re: Fwd: Re: Minutes of the joint meeting of the working group on shared cold storage, loading times, the "
    "repair of the goods lift, the rota for the yard gate, the complaint of the neighbours about the "
    "reversing beeper at four in the morning, and any other business, with the corrections of all who were there"
)

WORLD = (
    Draft(
        "japanese",
        Kind.CLEAN,
        WEBMAIL,
        "tanaka@webmail-house.example",
        ("mina@bluebird-bakery.example",),
        JAPANESE,
        raw=(
            b"Date: %DATE%\nMessage-ID: %ID%\nFrom: tanaka@webmail-house.example\n"
            b"To: mina@bluebird-bakery.example\nSubject: " + JAPANESE_WORD.encode() + b"\nMIME-Version: 1.0\n"
            b"Content-Type: text/plain; charset=iso-2022-jp\nContent-Transfer-Encoding: 7bit\n\n"
            + "佐藤様\n\nお世話になっております。パンの見積書をありがとうございました。\n"
            "来週の火曜日にお返事いたします。\n\n田中\n".encode("iso-2022-jp")
        ),
        hours=6,
    ),
    Draft(
        "arabic",
        Kind.CLEAN,
        WEBMAIL,
        "layla.haddad@webmail-house.example",
        ("samir@northwind-law.example",),
        "موعد العشاء يوم الجمعة في بيت جدتي",
        "مرحبا سمير،\n\nالعشاء يوم الجمعة في السابعة مساء. هل تحضر معك الخبز والزيتون؟\n\nليلى\n",
        author="ليلى حداد <layla.haddad@webmail-house.example>",
        hours=8,
    ),
    Draft(
        "emoji",
        Kind.CLEAN,
        WEBMAIL,
        "anika.brandt@webmail-house.example",
        ("theo@bluebird-bakery.example",),
        "🥐🥐🥐 Samstag Frühstück bei euch? Wir wären zu fünft 😀",
        """
        Hallo Theo,

        hast du am Samstag um neun noch einen Tisch für fünf? Oma kommt auch mit
        und fragt schon seit Tagen nach euren Franzbrötchen. 🥐

        Liebe Grüße
        Anika
        """,
        author="Anika Brandt <anika.brandt@webmail-house.example>",
        hours=10,
    ),
    Draft(
        "hebrew-greek",
        Kind.CLEAN,
        ENGINEERS,
        "office@lindgren-engineering.example",
        ("yuki@hollowoak-clinic.example",),
        "Ευχαριστώ, תודה רבה, 谢谢: thanks in all our languages",
        """
        Dear Yuki,

        the whole workshop says thank you for the patience with our fourteen pairs
        of ears: ευχαριστώ, תודה רבה, 谢谢, спасибо, tack så mycket!
        """,
        hours=14,
    ),
    Draft(
        "latin-raw",
        Kind.CLEAN,
        MILL,
        "lager@flourmill.example",
        ("rosa@bluebird-bakery.example",),
        "Rückgabe der leeren Säcke",
        raw=(
            "Date: %DATE%\nMessage-ID: %ID%\nFrom: Mühle Lager <lager@flourmill.example>\n"
            "To: rosa@bluebird-bakery.example\nSubject: Rückgabe der leeren Säcke (altes Programm)\n\n"
            "Grüß Gott Frau Lindner,\n\nbitte die leeren Säcke bis Freitag bündeln.\n"
            "Dies schreibt unser altes Programm, das keine Umlaute im Kopf verpackt.\n"
        ).encode("latin-1"),
        hours=22,
    ),
    Draft(
        "long-subject",
        Kind.CLEAN,
        HARBOUR,
        "minutes@harbour-authority.example",
        ("lena@tidewater-marine.example", "theo@bluebird-bakery.example"),
        LONG,
        """
        All,

        the corrected minutes. If I missed one of your corrections again, please
        call me instead of writing to everybody.

        Ruth, minutes
        """,
        hours=28,
    ),
    Draft(
        "no-subject",
        Kind.CLEAN,
        WEBMAIL,
        "mail-from-phone@webmail-house.example",
        ("june@northwind-law.example",),
        "",
        "running ten minutes late, please start without me\n",
        hours=1,
    ),
    Draft(
        "html-hostile",
        Kind.CLEAN,
        WEBMAIL,
        "designer@webmail-house.example",
        ("mina@bluebird-bakery.example",),
        'New draft of the menu card <b>with "quotes" & ampersands</b>',
        "Mina, the draft is in the HTML part. It loads two pictures from our server.\n",
        html="""
        <html><head><title>Menu</title><style>h1 { color: #7a4a00; font-family: Georgia }</style>
        <script>document.body.innerHTML = "a script ran here"</script></head>
        <body onload="alert('a script ran here')">
        <h1>Menu card, third draft</h1>
        <img src="https://pictures.designer.example/bread.jpg" alt="a loaf" width="200">
        <img src="https://pictures.designer.example/open.gif?who=mina" width="1" height="1">
        <p style="background: url(https://pictures.designer.example/paper.png)">Rye, spelt and
        <a href="javascript:alert('a script ran here')">a link that is none</a>.</p>
        <form action="https://pictures.designer.example/like"><input name="password"><button>Like it</button></form>
        <iframe src="https://pictures.designer.example/frame"></iframe></body></html>
        """,
        author='"Draft & Co." <designer@webmail-house.example>',
        hours=11,
    ),
    Draft(
        "many-attachments",
        Kind.CLEAN,
        ENGINEERS,
        "drawings@lindgren-engineering.example",
        ("omar@tidewater-marine.example",),
        "Drawings of the stern gland, as asked",
        "Omar,\n\nfour files. The one with the odd name is from the old system.\n\nKarin\n",
        files=(
            File("stern gland A.csv", "text/csv", b"part;diameter_mm\r\ngland;84\r\nsleeve;76\r\n"),
            File("Zeichnung Stopfbüchse.txt", "text/plain", b"see A and B\r\n"),
            File("../../etc/drawing B.txt", "text/plain", b"a name that wants to climb\r\n"),
            File("empty.bin", "application/octet-stream", b""),
        ),
        hours=32,
    ),
)
