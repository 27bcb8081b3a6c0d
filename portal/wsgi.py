"""The web server's way in."""

from django.core.wsgi import get_wsgi_application

from portal.settings import choose
from portal.web.patience import limit_statements
from quarantine import metrics

choose()
limit_statements()
application = get_wsgi_application()
metrics.report("web")
