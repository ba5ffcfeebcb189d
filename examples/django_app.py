"""Messages between users in Django, in a single file: SECRET_KEY=... gunicorn --workers 2 django_app:application"""
import os
from contextlib import suppress

from django.conf import settings
from django.contrib.sessions.backends.signed_cookies import SessionStore
from django.core.wsgi import get_wsgi_application
from django.db import connection, models
from django.http import HttpResponse, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from ssegateway import Gateway, GatewayError

database = {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ.get("DATABASE", "streams.db")}
middleware = ["django.contrib.sessions.middleware.SessionMiddleware", "django.middleware.csrf.CsrfViewMiddleware"]
settings.configure(SECRET_KEY=os.environ["SECRET_KEY"], ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"],
                   DATABASES={"default": database}, MIDDLEWARE=middleware, SESSION_ENGINE=SessionStore.__module__)
application, gateway = get_wsgi_application(), Gateway()


class Stream(models.Model):
    token, user, instance = models.UUIDField(unique=True), models.TextField(), models.TextField(null=True)

    class Meta:
        app_label = "streams"

    def send(self, *data, **options):
        if not gateway.send(str(self.token), *data, **options):  # the stream has ended
            self.delete()


@csrf_exempt  # the gateway has no CSRF token; CALLBACK_TOKEN keeps others out
def callback(request):
    call = gateway.callback(request.body, request.headers)
    if call.action == "disconnect":
        Stream.objects.filter(token=call.token).delete()
        return HttpResponse()
    if not (user := SessionStore(call.cookies.get(settings.SESSION_COOKIE_NAME)).get("user")):
        return HttpResponse(status=401)
    Stream.objects.exclude(instance=call.instance).delete()  # lost when the gateway restarted
    stream = Stream(token=call.token, user=user, instance=call.instance)
    Stream.objects.bulk_create([stream], ignore_conflicts=True)  # the gateway may retry
    for oldest in Stream.objects.filter(user=user).order_by("-id")[3:]:
        oldest.send("Three pages are enough.", name="replaced", close=True)
    return JsonResponse({"event": {"name": "welcome", "data": user}})


def messages(request):
    if "user" not in request.session:
        return HttpResponse(status=401)
    for stream in Stream.objects.filter(user=request.POST["to"]):
        stream.send(f"{request.session['user']}: {request.POST['text']}")
    return HttpResponse()


def users(request):
    if request.method == "POST":
        request.session["user"] = request.POST["user"]  # a real project uses django.contrib.auth
    return JsonResponse(list(Stream.objects.values_list("user", flat=True).distinct()), safe=False)


urlpatterns = [path("callback", callback), path("messages", messages), path("users", users)]
with connection.cursor() as cursor:  # a real project has a migration
    cursor.execute("CREATE TABLE IF NOT EXISTS streams_stream (id INTEGER PRIMARY KEY, token UNIQUE, user, instance)")
with suppress(GatewayError):  # forget the streams that ended while this application was down
    streams, connected = list(Stream.objects.all()), {c.token for c in gateway.connections()}
    for stream in streams:
        if str(stream.token) not in connected:
            stream.send()  # without an event it is a probe: the stream may still be connecting
