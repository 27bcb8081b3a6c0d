"""Unwanted mail, written for the demo in the manner of the real one."""

from __future__ import annotations

from portal.stack.demo.letters.make import Draft, Kind

VPS5, VPS9, FORGED, DSL, SLOW = "203.0.113.5", "203.0.113.9", "203.0.113.66", "203.0.113.99", "198.51.100.200"
# The test string of every spam filter, in two halves so that this file is no spam itself.
GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*" + "GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"

SPAM = (
    Draft(
        "pills",
        Kind.SPAM,
        VPS5,
        "deals@rx-savings-club.example",
        (
            "theo@bluebird-bakery.example",
            "mina@bluebird-bakery.example",
            "ken@hollowoak-clinic.example",
        ),
        "Save 80% on V1AGRA and C1ALIS - no prescription needed!!!",
        """
        Cheap meds online! Viagra $0.89, Cialis $1.49, Xanax, Valium, Ambien.
        No prescription required. Free worldwide shipping. Buy now and save 80%!
        Lowest prices guaranteed, 100% satisfaction or your money back.
        Order here: http://rx-savings-club.example/order

        Click here to unsubscribe.
        """,
        author="Rx Savings Club <deals@rx-savings-club.example>",
        hours=2,
    ),
    Draft(
        "watches",
        Kind.SPAM,
        VPS9,
        "sales@swiss-replica-store.example",
        (
            "theo@bluebird-bakery.example",
            "june@northwind-law.example",
            "ken@hollowoak-clinic.example",
        ),
        "Rolex, Omega, Breitling replica watches from $199",
        """
        Exclusive replica watches! Rolex, Omega, Cartier, Breitling from $199.
        Nobody will know the difference. 70% off this week only, order now!
        http://swiss-replica-store.example/rolex
        """,
        html="""
        <html><body bgcolor="#ffffff"><center><font size="6" color="red"><b>REPLICA WATCHES!!!</b></font><br>
        <a href="http://swiss-replica-store.example/rolex"><img src="http://swiss-replica-store.example/r.jpg"></a>
        <br><font color="#fefefe">garden river seven letter mountain blue</font>
        <p><b>Rolex, Omega, Cartier from $199! 70% off! Order now!</b></center></body></html>
        """,
        author="Replica Watches <sales@swiss-replica-store.example>",
        hours=4,
    ),
    Draft(
        "loan",
        Kind.SPAM,
        VPS5,
        "approval@instant-cash-loans.example",
        (
            "rosa@bluebird-bakery.example",
            "samir@northwind-law.example",
            "theo@bluebird-bakery.example",
        ),
        "You have been pre-approved: $50,000, bad credit OK",
        """
        Dear Homeowner,

        You have been pre-approved for a $50,000 loan at 3.25% fixed rate! Your
        credit history does not matter. Lower your mortgage payment today, this
        is a limited time offer. To accept, visit our website now:

        http://instant-cash-loans.example/apply

        Approval Manager
        """,
        hours=6,
    ),
    Draft(
        "inheritance",
        Kind.SPAM,
        DSL,
        "barrister.k@mail-barrister.example",
        (
            "harriet@northwind-law.example",
            "paula@hollowoak-clinic.example",
            "rosa@bluebird-bakery.example",
            "ken@hollowoak-clinic.example",
        ),
        "CONFIDENTIAL BUSINESS PROPOSAL: US$18,500,000.00",
        """
        DEAR FRIEND,

        I AM BARRISTER KOFI, ATTORNEY TO THE LATE MR. JOHN, A FOREIGNER WHO DIED
        WITH HIS FAMILY IN A MOTOR ACCIDENT. HE LEFT BEHIND THE SUM OF EIGHTEEN
        MILLION FIVE HUNDRED THOUSAND UNITED STATES DOLLARS (US$18,500,000.00) IN
        A BANK HERE. I SEEK YOUR CONSENT TO PRESENT YOU AS THE NEXT OF KIN SO THAT
        THE FUND CAN BE TRANSFERRED TO YOUR BANK ACCOUNT. YOU WILL HAVE 40 % OF
        THE TOTAL SUM. THIS TRANSACTION IS 100 % RISK FREE. PLEASE SEND YOUR FULL
        NAME, TELEPHONE NUMBER AND BANK DETAILS. TREAT AS URGENT AND CONFIDENTIAL.

        YOURS FAITHFULLY,
        BARRISTER KOFI
        """,
        author="BARRISTER KOFI <barrister.k@mail-barrister.example>",
        hours=8,
    ),
    Draft(
        "lottery",
        Kind.SPAM,
        VPS9,
        "claims@euro-lotto-office.example",
        (
            "ken@hollowoak-clinic.example",
            "lena@tidewater-marine.example",
            "theo@bluebird-bakery.example",
        ),
        "CONGRATULATIONS!!! Your e-mail address has WON 1,000,000 EURO",
        """
        WINNING NOTIFICATION

        We are pleased to inform you that your e-mail address won the sum of
        ONE MILLION EURO in the international lottery promotion. To claim your
        prize contact our claims agent at once with your name, address, age and
        telephone number. Ref: EL/2026/8812, batch 14/003. Congratulations!!!
        """,
        author="EURO LOTTO <claims@euro-lotto-office.example>",
        hours=5,
    ),
    Draft(
        "bank-phish",
        Kind.SPAM,
        FORGED,
        "security@riverbank.example",
        (
            "june@northwind-law.example",
            "mina@bluebird-bakery.example",
            "orders@bluebird-bakery.example",
        ),
        "Your account has been limited - verify within 24 hours",
        """
        Dear valued customer,

        We noticed unusual activity and your account has been suspended. Please
        verify your account information within 24 hours or it will be closed:
        http://riverbank.secure-login-verify.example/account

        Riverbank Security Department
        """,
        html="""
        <html><body><p>Dear valued customer,</p><p>We noticed unusual activity and your account has been
        <b>suspended</b>. Please verify your account information within 24 hours:</p>
        <p><a href="http://riverbank.secure-login-verify.example/account">https://www.riverbank.example/login</a></p>
        <p>Riverbank Security Department</p></body></html>
        """,
        author="Riverbank <security@riverbank.example>",
        hours=1,
    ),
    Draft(
        "parcel",
        Kind.SPAM,
        VPS5,
        "notice@parcel-track-center.example",
        (
            "yuki@hollowoak-clinic.example",
            "theo@bluebird-bakery.example",
            "samir@northwind-law.example",
            "ken@hollowoak-clinic.example",
        ),
        "Your package could not be delivered: pay 1.99 to reschedule",
        """
        Your package PT-88120-X is waiting for delivery. A shipping fee of 1.99 is
        due. Click here now to pay and reschedule your delivery, otherwise your
        package will be returned: http://parcel-track-center.example/pay
        """,
        hours=3,
    ),
    Draft(
        "dating",
        Kind.SPAM,
        VPS9,
        "lonely@hot-singles-zone.example",
        (
            "omar@tidewater-marine.example",
            "theo@bluebird-bakery.example",
            "orders@bluebird-bakery.example",
        ),
        "Hi honey, I saw your profile... hot singles in your area",
        """
        Hi honey! My name is Natasha, I am 24, I saw your profile and I want to
        meet you tonight. See my hot pictures, click here, it is 100% free!!!
        http://hot-singles-zone.example/natasha
        """,
        author="Natasha <lonely@hot-singles-zone.example>",
        hours=7,
    ),
    Draft(
        "seo",
        Kind.SPAM,
        VPS5,
        "rank@first-page-now.example",
        (
            "mina@bluebird-bakery.example",
            "paula@hollowoak-clinic.example",
            "theo@bluebird-bakery.example",
            "ken@hollowoak-clinic.example",
        ),
        "Get your website on the FIRST PAGE of Google - guaranteed",
        """
        Hi there,

        I was looking at your website and found many errors. We can get you on the
        first page of Google, guaranteed! 10,000 visitors and quality backlinks for
        only $99 a month. Limited time offer. Reply with your phone number for a
        FREE quote and increase your sales today!
        """,
        author="Website Traffic <rank@first-page-now.example>",
        hours=12,
    ),
    Draft(
        "stock-tip",
        Kind.SPAM,
        DSL,
        "alert@penny-rocket.example",
        ("harriet@northwind-law.example", "omar@tidewater-marine.example"),
        "HOT STOCK ALERT: this one will go up 400% on Monday",
        """
        Huge news expected! Symbol: GRFX. Current price: $0.12, 5 day target price:
        $0.60. This stock is about to explode, our last pick made 400% in a week.
        Strong buy! Investors, do not miss it, get in before the news on Monday!
        """,
        hours=15,
    ),
    Draft(
        "casino",
        Kind.SPAM,
        SLOW,
        "bonus@golden-palm-casino.example",
        (
            "ken@hollowoak-clinic.example",
            "rosa@bluebird-bakery.example",
            "theo@bluebird-bakery.example",
        ),
        "$1,500 FREE bonus - play online casino now!",
        """
        Welcome to Golden Palm Online Casino! Get $1,500 FREE bonus with your first
        deposit. Poker, blackjack, roulette, slots. Instant payout, play now and
        win big! Download our software free: http://golden-palm-casino.example/play
        """,
        author="Golden Palm Casino <bonus@golden-palm-casino.example>",
        hours=17,
    ),
    Draft(
        "diet",
        Kind.SPAM,
        VPS9,
        "slim@melt-it-off.example",
        (
            "yuki@hollowoak-clinic.example",
            "june@northwind-law.example",
            "theo@bluebird-bakery.example",
            "ken@hollowoak-clinic.example",
        ),
        "Lose 30 pounds in 30 days, doctors hate this",
        """
        Lose weight fast without diet or exercise! Our all natural pills burn fat
        while you sleep. Free trial bottle, just pay shipping. Order now, supplies
        are limited! Click here: http://melt-it-off.example/free-trial
        """,
        hours=21,
    ),
    Draft(
        "software",
        Kind.SPAM,
        VPS5,
        "oem@cheap-licenses-4u.example",
        (
            "lena@tidewater-marine.example",
            "samir@northwind-law.example",
            "theo@bluebird-bakery.example",
        ),
        "OEM software: Office $49, Photoshop $59, instant download",
        """
        Cheap OEM software, instant download! Microsoft Office $49, Windows $39,
        Adobe Photoshop $59. Save up to 90% off the retail price. Best prices on
        the net, order today: http://cheap-licenses-4u.example/
        """,
        hours=25,
    ),
    Draft(
        "work-at-home",
        Kind.SPAM,
        DSL,
        "jobs@easy-money-home.example",
        ("mina@bluebird-bakery.example", "lena@tidewater-marine.example"),
        "Earn $5,000 a week working from home",
        """
        Make money fast! Work from home and earn $5,000 a week, no experience
        needed. Be your own boss, financial freedom is waiting for you. This is
        not a scam! Sign up now for free: http://easy-money-home.example/start
        """,
        hours=29,
    ),
    Draft(
        "gtube-one",
        Kind.SURE_SPAM,
        VPS5,
        "tester@filter-check.example",
        ("theo@bluebird-bakery.example", "harriet@northwind-law.example"),
        "Test of the spam filter (GTUBE)",
        f"This is the Generic Test for Unsolicited Bulk Email. It must be caught.\n\n{GTUBE}\n",
        hours=1,
    ),
    Draft(
        "gtube-two",
        Kind.SURE_SPAM,
        VPS9,
        "tester@filter-check.example",
        ("paula@hollowoak-clinic.example", "ken@hollowoak-clinic.example", "omar@tidewater-marine.example"),
        "Second test of the spam filter, inside HTML",
        "The string is in the HTML part.\n",
        html=f"<html><body><p>It must be caught here too:</p><p>{GTUBE}</p></body></html>\n",
        hours=2,
    ),
    Draft(
        "gtube-many",
        Kind.SURE_SPAM,
        FORGED,
        "blast@filter-check.example",
        (
            "rosa@bluebird-bakery.example",
            "mina@bluebird-bakery.example",
            "samir@northwind-law.example",
            "june@northwind-law.example",
            "yuki@hollowoak-clinic.example",
            "lena@tidewater-marine.example",
        ),
        "AMAZING OFFER for everybody at once",
        f"Six recipients at two providers, one message.\n\n{GTUBE}\n",
        author="Blast <blast@filter-check.example>",
        hours=3,
    ),
)
