"""Newsletters, notices of machines and bounces: mail that looks like spam to a careless filter."""

from __future__ import annotations

from portal.stack.demo.letters.make import Draft, Kind

HUB, LEDGER, WEBMAIL = "192.0.2.40", "198.51.100.33", "198.51.100.81"
LIST = (
    ("List-Id", "<weekly.crumb-weekly.example>"),
    ("List-Unsubscribe", "<https://crumb-weekly.example/leave>"),
    ("Precedence", "bulk"),
)
BOUNCE = b"""Date: %DATE%
Message-ID: %ID%
From: Mail Delivery System <mailer-daemon@webmail-house.example>
To: theo@bluebird-bakery.example
Subject: Undelivered Mail Returned to Sender
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary="report"

--report
Content-Type: text/plain; charset=us-ascii

Your message to the address below could not be delivered.

<old.customer@webmail-house.example>: mailbox full

--report
Content-Type: message/delivery-status

Reporting-MTA: dns; smtp.webmail-house.example

Final-Recipient: rfc822; old.customer@webmail-house.example
Action: failed
Status: 5.2.2

--report
Content-Type: text/rfc822-headers

From: theo@bluebird-bakery.example
To: old.customer@webmail-house.example
Subject: Your order is ready

--report--
"""

LISTS = (
    Draft(
        "crumb-weekly",
        Kind.ALLOWED_SENDER,
        HUB,
        "offers@crumb-weekly.example",
        ("theo@bluebird-bakery.example",),
        "Crumb Weekly: sourdough in winter, and 20 % off proving baskets",
        """
        Crumb Weekly, issue 48

        - Why your starter sleeps below 20 degrees
        - Readers' ovens: a brick one in a Lisbon back yard
        - Only this week: 20 % off proving baskets. Order now, the offer ends soon!

        You get this because you subscribed. Leave: https://crumb-weekly.example/leave
        """,
        html="""
        <html><body><h1>Crumb Weekly</h1><img src="https://crumb-weekly.example/loaf.jpg" alt="a loaf">
        <ul><li>Why your starter sleeps below 20 degrees</li><li>Readers' ovens</li></ul>
        <p><b>Only this week: 20 % off proving baskets. Order now, the offer ends soon!</b></p>
        <p><a href="https://crumb-weekly.example/leave">Leave this list</a></p></body></html>
        """,
        author="Crumb Weekly <offers@crumb-weekly.example>",
        headers=LIST,
        hours=13,
    ),
    Draft(
        "bar-association",
        Kind.NEWSLETTER,
        HUB,
        "bounces+northwind@letterpress-hub.example",
        ("harriet@northwind-law.example", "june@northwind-law.example"),
        "Bar association: three decisions on electronic service of documents",
        """
        This month: the high court on service by e-mail, what the new form 12
        asks for, and seats left in the seminar on digital evidence.

        Leave this list: https://letterpress-hub.example/u/77
        """,
        author="Bar Association News <news@letterpress-hub.example>",
        headers=(
            ("List-Id", "Bar Association News <bar.letterpress-hub.example>"),
            ("List-Unsubscribe", "<https://letterpress-hub.example/u/77>"),
        ),
        hours=24,
    ),
    Draft(
        "tide-tables",
        Kind.NEWSLETTER,
        HUB,
        "bounces+tidewater@letterpress-hub.example",
        ("lena@tidewater-marine.example",),
        "Tides and notices to mariners, week 48",
        """
        HW 05:41 2.1 m, LW 11:52 0.4 m. Light buoy 14 is unlit until further
        notice. Naval exercise east of the point on Wednesday, 08:00 to 16:00.
        """,
        author="Notices to Mariners <notices@letterpress-hub.example>",
        headers=(("List-Id", "<notices.letterpress-hub.example>"),),
        hours=19,
    ),
    Draft(
        "developer-list",
        Kind.NEWSLETTER,
        HUB,
        "clinic-software-bounces@letterpress-hub.example",
        ("ken@hollowoak-clinic.example",),
        "[clinic-software] Release 5.2: the printing of labels is mended",
        """
        Hi all,

        5.2 is out. Labels print again on the small printers, and the export of
        vaccinations has the batch number. Thanks to the three of you who tested.

        _______________________________________________
        clinic-software mailing list
        """,
        author="Maren Voss via clinic-software <clinic-software@letterpress-hub.example>",
        headers=(("List-Id", "<clinic-software.letterpress-hub.example>"), ("Precedence", "list")),
        hours=33,
    ),
    Draft(
        "backup-report",
        Kind.CLEAN,
        LEDGER,
        "robot@cloudledger.example",
        ("rosa@bluebird-bakery.example", "omar@tidewater-marine.example"),
        "Backup finished: 0 errors, 3,118 files",
        "Job: nightly\nFiles: 3118\nErrors: 0\nTook: 4 min 12 s\n",
        headers=(("Auto-Submitted", "auto-generated"),),
        hours=6,
    ),
    Draft(
        "bounce-full",
        Kind.BOUNCE,
        WEBMAIL,
        "",
        ("theo@bluebird-bakery.example",),
        "Undelivered Mail Returned to Sender",
        raw=BOUNCE,
        hours=2,
    ),
    Draft(
        "out-of-office",
        Kind.BOUNCE,
        "198.51.100.60",
        "",
        ("lena@tidewater-marine.example",),
        "Out of office: Re: Berth for the ketch",
        "I am at sea until Monday. In urgent cases call the harbour office.\n",
        author="Duty officer <duty@harbour-authority.example>",
        headers=(("Auto-Submitted", "auto-replied"),),
        hours=3,
    ),
    Draft(
        "allowed-quarrel",
        Kind.ALLOWED_SENDER,
        "198.51.100.60",
        "press@harbour-authority.example",
        ("omar@tidewater-marine.example",),
        "FREE mooring!!! Win one of 20 season passes, click now",
        """
        Congratulations to all who enter our draw: 20 season passes, FREE of
        charge! Act now, this offer ends on Friday. Click here to claim your
        prize: https://harbour-authority.example/draw

        (Our new agency wrote this. Sorry. It is a real draw.)
        """,
        hours=5,
    ),
)
