"""Messages between users: pages, and the callback of the gateway."""
import json

from django.conf import settings
from django.contrib.auth import get_user, get_user_model
from django.contrib.auth.decorators import login_required
from django.contrib.sessions.backends.db import SessionStore
from django.db import transaction
from django.db.models import Q
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST
from ssegateway import Gateway, accept

from .models import Message

gateway = Gateway()


@csrf_exempt  # the gateway has no CSRF token; CALLBACK_TOKEN keeps others out
@require_POST
def callback(request):
    call = gateway.callback(request.body, request.headers)
    if call.action != "connect":
        return HttpResponse()
    client = HttpRequest()  # the client's request, with its session cookie
    client.session = SessionStore(call.cookies.get(settings.SESSION_COOKIE_NAME))
    user = get_user(client)
    if not user.is_authenticated:
        return HttpResponse(status=401)
    return JsonResponse(accept(groups=[f"user:{user.pk}"]))


@login_required
def page(request):
    cursor = gateway.cursor("unknown") or ""  # before the query: the stream continues from here
    messages = Message.objects.filter(Q(sender=request.user) | Q(recipient=request.user)).select_related("sender")
    context = {"messages": messages.order_by("pk"), "events": settings.EVENTS_URL, "cursor": cursor}
    return render(request, "messages.html", context)


@login_required
@require_POST
def send(request):
    recipient = get_object_or_404(get_user_model(), username=request.POST["to"])
    message = Message.objects.create(sender=request.user, recipient=recipient, text=request.POST["text"])
    data = json.dumps({"id": message.pk, "sender": request.user.username, "text": message.text})
    groups = [f"user:{recipient.pk}", f"user:{request.user.pk}"]
    # robust: an error, such as that the gateway is down, is logged; the message is in the database, where pages find it later.
    transaction.on_commit(lambda: gateway.send(groups=groups, data=data), robust=True)
    return HttpResponse()
