"""Viruses (the harmless test file), blocked senders, and clients without reverse DNS."""

from __future__ import annotations

from portal.stack.demo.letters.make import Draft, File, Kind

VPS5, VPS9, BANK2, WEBMAIL = "203.0.113.5", "203.0.113.9", "192.0.2.77", "198.51.100.81"
WINNER, OFFICE, PHARMA, SLOW, DSL = (
    "203.0.113.150",
    "203.0.113.151",
    "203.0.113.152",
    "198.51.100.200",
    "203.0.113.99",
)
# The harmless string that every virus scanner reports, in two halves so that this file is not reported itself.
EICAR = ("X5O!P%@AP[4\\PZX54(P^)7CC)7}" + "$EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*").encode()

DANGER = (
    Draft(
        "virus-invoice",
        Kind.VIRUS,
        VPS5,
        "accounts@overdue-invoice.example",
        ("rosa@bluebird-bakery.example", "harriet@northwind-law.example"),
        "Invoice 8841 is overdue, please see attached",
        "Please find attached our invoice. Payment is due at once.\n",
        files=(File("invoice_8841.pdf.com", "application/octet-stream", EICAR),),
        hours=2,
    ),
    Draft(
        "virus-photo",
        Kind.VIRUS,
        VPS9,
        "holiday@photo-share.example",
        ("yuki@hollowoak-clinic.example", "lena@tidewater-marine.example"),
        "You look so funny in this picture",
        "Is that you??? Look at the attachment.\n",
        files=(File("IMG_2093.jpg.scr", "image/jpeg", EICAR),),
        hours=10,
    ),
    Draft(
        "virus-from-friend",
        Kind.VIRUS,
        WEBMAIL,
        "offers@crumb-weekly.example",
        ("theo@bluebird-bakery.example",),
        "Crumb Weekly: the recipe file you asked for",
        "An allowed sender whose machine caught something: it is held all the same.\n",
        files=(File("recipe.doc.com", "application/msword", EICAR),),
        hours=4,
    ),
    Draft(
        "blocked-provider",
        Kind.BLOCKED_SENDER,
        "192.0.2.40",
        "news@bargain-barn.example",
        ("mina@bluebird-bakery.example", "samir@northwind-law.example"),
        "Bargain Barn: everything must go",
        "This week: garden chairs, drills, a thousand small things. Come and see.\n",
        author="Bargain Barn <news@bargain-barn.example>",
        hours=9,
    ),
    Draft(
        "blocked-domain",
        Kind.BLOCKED_SENDER,
        WEBMAIL,
        "recruiter@talent-rush.example",
        ("june@northwind-law.example", "harriet@northwind-law.example"),
        "Paralegals available at once, fourth reminder",
        "I have not heard from you. May I call this afternoon about our candidates?\n",
        hours=13,
    ),
    Draft(
        "blocked-pills",
        Kind.BLOCKED_SENDER,
        "192.0.2.40",
        "club@miracle-pills.example",
        ("paula@hollowoak-clinic.example", "omar@tidewater-marine.example"),
        "Members only: our new herbal range",
        "Our new herbal range is here. Members of the club order first.\n",
        hours=14,
    ),
    Draft(
        "no-ptr-winner",
        Kind.NO_REVERSE_DNS,
        WINNER,
        "prize@winner-notify.example",
        ("theo@bluebird-bakery.example",),
        "You are the winner of the day",
        "Claim within one hour.\n",
        reply=553,
    ),
    Draft(
        "no-ptr-office",
        Kind.NO_REVERSE_DNS,
        OFFICE,
        "post@small-office.example",
        ("harriet@northwind-law.example",),
        "The papers you wanted",
        "A real customer whose provider forgot the reverse DNS: the refusal tells the sender what to do.\n",
        reply=553,
    ),
    Draft(
        "no-ptr-pharma",
        Kind.NO_REVERSE_DNS,
        PHARMA,
        "rx@pharma-direct.example",
        ("mina@bluebird-bakery.example",),
        "Cheap meds",
        "Cheap meds online, no prescription.\n",
        reply=553,
    ),
    Draft(
        "no-ptr-held",
        Kind.NO_REVERSE_DNS,
        OFFICE,
        "lab@small-office.example",
        ("ken@hollowoak-clinic.example", "paula@hollowoak-clinic.example"),
        "Results of the water samples",
        """
        Dear team,

        all four samples are within the limits. The clinic holds mail of servers
        without reverse DNS instead of refusing it, so you find this in quarantine.

        The laboratory
        """,
        hours=6,
    ),
    Draft(
        "no-ptr-scored",
        Kind.NO_REVERSE_DNS,
        OFFICE,
        "chandler@small-office.example",
        ("omar@tidewater-marine.example",),
        "Rope and shackles are ready to be fetched",
        """
        Omar, 60 m of 12 mm rope and the six shackles are in the shed. Tidewater
        only counts the missing reverse DNS as a sign of spam, so this arrives.
        """,
        hours=8,
    ),
    Draft(
        "no-ptr-both",
        Kind.NO_REVERSE_DNS,
        OFFICE,
        "survey@small-office.example",
        ("samir@northwind-law.example", "yuki@hollowoak-clinic.example"),
        "Survey of the shared car park",
        "Two recipients: one's domain refuses us at RCPT, the other's holds the mail.\n",
        hours=11,
    ),
    Draft(
        "slow-names",
        Kind.ODD_REVERSE_DNS,
        SLOW,
        "office@slow-names.example",
        ("rosa@bluebird-bakery.example",),
        "Our name server is ill today",
        "Nobody is refused because a name server does not answer.\n",
        hours=2,
    ),
    Draft(
        "mismatch",
        Kind.ODD_REVERSE_DNS,
        DSL,
        "garden@webmail-house.example",
        ("theo@bluebird-bakery.example",),
        "Elderflowers again this spring?",
        "Hello Theo, the elder bushes behind our house are full again. Shall I bring two crates? Bernd\n",
        hours=5,
    ),
    Draft(
        "who-left",
        Kind.UNKNOWN_MAILBOX,
        BANK2,
        "reminder@riverbank.example",
        ("former.employee@bluebird-bakery.example",),
        "Your card will expire",
        "To somebody who left long ago.\n",
        reply=550,
    ),
)
