"""The web server's way in."""

from django.core.wsgi import get_wsgi_application

from portal.settings import choose
from quarantine import metrics

choose()
application = get_wsgi_application()
metrics.report("web")
