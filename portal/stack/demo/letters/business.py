"""Everyday mail: orders, appointments, invoices, questions. It is delivered."""

from __future__ import annotations

from portal.stack.demo.letters.make import Draft, File, Kind, make_pdf, make_png

MILL, COURT, BANK, LEDGER = "192.0.2.10", "192.0.2.25", "198.51.100.12", "198.51.100.33"
HARBOUR, WEBMAIL, ENGINEERS = "198.51.100.60", "198.51.100.81", "2001:db8:25::10"
SKETCH = make_png(96, 64, bytes(value for y in range(64) for x in range(96) for value in (2 * x, 90 + y, 170)))
MEETING = b"""BEGIN:VCALENDAR\r
VERSION:2.0\r
PRODID:-//Court Mail//EN\r
METHOD:REQUEST\r
BEGIN:VEVENT\r
UID:hearing-4471@courtmail.example\r
SUMMARY:Pre-trial conference, room 12\r
DTSTART:20270114T140000Z\r
DTEND:20270114T150000Z\r
END:VEVENT\r
END:VCALENDAR\r
"""

BUSINESS = (
    Draft(
        "flour-delivery",
        Kind.CLEAN,
        MILL,
        "dispatch@flourmill.example",
        ("theo@bluebird-bakery.example",),
        "Delivery on Thursday: 40 sacks of rye 1150",
        """
        Good morning Theo,

        the lorry will be with you on Thursday between 5:30 and 6:15. On board are
        40 sacks of rye 1150 and the 10 sacks of spelt that were short last week.
        Please have the empty pallets ready, the driver takes them back.

        Regards,
        Johanna, dispatch
        """,
        author="Johanna Kern <dispatch@flourmill.example>",
    ),
    Draft(
        "oven-service",
        Kind.CLEAN,
        ENGINEERS,
        "service@lindgren-engineering.example",
        ("rosa@bluebird-bakery.example", "theo@bluebird-bakery.example"),
        "Deck oven 2: the gasket is here, when may we come?",
        """
        Hello Rosa, hello Theo,

        the door gasket for deck oven 2 arrived today. The change takes about two
        hours and the oven has to be cold. Would Sunday after closing suit you, or
        would you rather have us on Monday, your day off?

        Karin Lindgren
        """,
        author="Karin Lindgren <service@lindgren-engineering.example>",
        hours=5,
    ),
    Draft(
        "wedding-cake",
        Kind.CLEAN,
        WEBMAIL,
        "nadine.pohl@webmail-house.example",
        ("orders@bluebird-bakery.example",),
        "Wedding cake for 12 June, 80 guests",
        """
        Dear bakery team,

        we tasted your lemon and elderflower cake at the market and would love to
        have it for our wedding on 12 June. We expect 80 guests, six of them do
        not eat nuts. I attach a sketch of the tiers. What would it cost, and by
        when do you need to know the final number?

        Many thanks, Nadine and Jo
        """,
        author="Nadine Pohl <nadine.pohl@webmail-house.example>",
        files=(File("tiers.png", "image/png", SKETCH),),
        hours=9,
    ),
    Draft(
        "application",
        Kind.CLEAN,
        WEBMAIL,
        "t.achterberg@webmail-house.example",
        ("jobs@bluebird-bakery.example",),
        "Application as apprentice baker",
        """
        Dear Ms Sato,

        your notice in the shop window says that you look for an apprentice from
        August on. I finished school in May, have worked three summers in my
        uncle's bakery, and getting up at three does not frighten me. My papers
        are attached. I would be glad to come for a trial day.

        Yours sincerely,
        Tijn Achterberg
        """,
        author="Tijn Achterberg <t.achterberg@webmail-house.example>",
        files=(File("Bewerbung Achterberg.pdf", "application/pdf", make_pdf("Application of Tijn Achterberg")),),
        hours=20,
    ),
    Draft(
        "invoice-ledger",
        Kind.CLEAN,
        LEDGER,
        "billing@cloudledger.example",
        ("rosa@bluebird-bakery.example",),
        "Your invoice CL-20418 for bookkeeping, paid by direct debit",
        """
        Hello Rosa Lindner,

        attached is invoice CL-20418 over 49.00 EUR for this month. We collect the
        amount from your account on the 3rd; there is nothing for you to do.

        Cloudledger billing
        """,
        html="""
        <html><head><style>td { padding: 4px 12px 4px 0 }</style></head><body>
        <p>Hello Rosa Lindner,</p>
        <table><tr><td>Invoice</td><td>CL-20418</td></tr><tr><td>Amount</td><td>49.00 EUR</td></tr>
        <tr><td>Collected on</td><td>the 3rd</td></tr></table>
        <p>There is nothing for you to do.</p><p>Cloudledger billing</p></body></html>
        """,
        files=(File("CL-20418.pdf", "application/pdf", make_pdf("Invoice CL-20418: 49.00 EUR")),),
        hours=30,
    ),
    Draft(
        "hearing",
        Kind.CLEAN,
        COURT,
        "clerk@courtmail.example",
        ("samir@northwind-law.example", "harriet@northwind-law.example"),
        "Docket 4471: pre-trial conference moved to room 12",
        """
        Counsel,

        the pre-trial conference in docket 4471 takes place in room 12 instead of
        room 9. Date and time are unchanged. A calendar entry is attached.

        Office of the clerk
        """,
        files=(File("conference.ics", "text/calendar", MEETING),),
        hours=3,
    ),
    Draft(
        "witness",
        Kind.CLEAN,
        WEBMAIL,
        "gordon.price@webmail-house.example",
        ("intake@northwind-law.example",),
        "Question about a lease that was never signed",
        """
        Good afternoon,

        my landlord says that the lease he sent me in March binds me although
        neither of us signed it. I moved in, and I pay each month. He now wants
        the carpets replaced at my cost, as that paper says. Do you take cases
        like this, and what does a first meeting cost?

        Gordon Price
        """,
        author="Gordon Price <gordon.price@webmail-house.example>",
        hours=7,
    ),
    Draft(
        "bank-statement",
        Kind.CLEAN,
        BANK,
        "statements@riverbank.example",
        ("june@northwind-law.example",),
        "Your statement for the trust account is ready",
        """
        Dear Ms Park,

        the monthly statement for the account ending in 0931 is in your mailbox in
        online banking. For your safety we send no links; please open our site as
        you always do.

        Riverbank
        """,
        author="Riverbank <statements@riverbank.example>",
        hours=12,
    ),
    Draft(
        "referral",
        Kind.CLEAN,
        ENGINEERS,
        "j.lindgren@lindgren-engineering.example",
        ("reception@hollowoak-clinic.example",),
        "Appointment for the hearing tests of our workshop",
        """
        Dear reception,

        fourteen of our people need the yearly hearing test. Could you see seven
        on a Tuesday and seven on a Wednesday, as you did last spring? Mornings
        are best, before the machines start.

        Jonas Lindgren
        """,
        author="Jonas Lindgren <j.lindgren@lindgren-engineering.example>",
        hours=16,
    ),
    Draft(
        "rota",
        Kind.CLEAN,
        WEBMAIL,
        "ken.adeyemi@webmail-house.example",
        ("paula@hollowoak-clinic.example", "yuki@hollowoak-clinic.example"),
        "Swap of shifts on the 18th",
        """
        Paula, Yuki,

        my daughter's school play is on the 18th. Yuki would take my late shift if
        I take her early one on the 19th. Is that all right with you, Paula? I
        write from home, the clinic's laptop is at the workshop.

        Ken
        """,
        author="Ken Adeyemi <ken.adeyemi@webmail-house.example>",
        hours=26,
    ),
    Draft(
        "berth",
        Kind.CLEAN,
        HARBOUR,
        "berths@harbour-authority.example",
        ("omar@tidewater-marine.example", "lena@tidewater-marine.example"),
        "Berth 7 closed for dredging from the 2nd to the 9th",
        """
        To all users of the fitting-out quay

        Berth 7 is closed for dredging from the 2nd, 06:00, to the 9th, 18:00.
        Vessels that lie there now have to move by the evening of the 1st. Berths
        5 and 11 are free; tell us by Friday which you need.

        Harbour master's office
        """,
        hours=18,
    ),
    Draft(
        "spare-parts",
        Kind.CLEAN,
        ENGINEERS,
        "parts@lindgren-engineering.example",
        ("parts@tidewater-marine.example",),
        "Re: impeller 08-41-1520, two pieces in stock",
        """
        Lena,

        yes, two pieces of impeller 08-41-1520 are on the shelf and leave today.
        The O-rings come with them. The exhaust elbow takes three weeks; the old
        casting mould broke. If yours still holds, send us the drawing.

        > Do you have 08-41-1520 and the elbow for the ketch? The owner wants to
        > sail on the first.
        """,
        headers=(("In-Reply-To", "<parts-77@tidewater-marine.example>"),),
        hours=4,
    ),
    Draft(
        "both-providers",
        Kind.CLEAN,
        WEBMAIL,
        "chamber@webmail-house.example",
        (
            "rosa@bluebird-bakery.example",
            "harriet@northwind-law.example",
            "paula@hollowoak-clinic.example",
            "omar@tidewater-marine.example",
        ),
        "Chamber of commerce: members' breakfast on Friday",
        """
        Dear members,

        the breakfast is on Friday at 7:30 in the old customs house. Harriet Vane
        speaks about leases after the new act; the rolls come from Bluebird. Let
        us know by Wednesday if you bring a guest.

        The chamber's office
        """,
        author="Chamber of Commerce <chamber@webmail-house.example>",
        hours=40,
    ),
)
